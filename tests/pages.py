"""A page of HTML as tests read it."""

from html.parser import HTMLParser

VOID = {'meta', 'link', 'img', 'br'}


class Page(HTMLParser):
  """Checks that tags are balanced; keeps text, cells and attributes."""

  def __init__(self, source):
    super().__init__()
    self.open, self.tags, self.attributes, self.rows, self.text = [], [], [], [], ''
    self.feed(source)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes += [(tag, name, value) for name, value in attributes]
    if tag not in VOID:
      self.open.append(tag)
    if tag == 'tr':
      self.rows.append([])
    if tag in ('td', 'th') and self.rows:
      self.rows[-1].append('')

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if 'style' not in self.open:
      self.text += data
    if self.open and {'td', 'th'} & set(self.open) and 'sup' not in self.open:
      self.rows[-1][-1] += data

  def row(self, label):
    return next(row for row in self.rows if row[0] == label)
