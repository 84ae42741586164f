import csv

from memkd_jax.report.scores import ScoredImage, write_scores


def test_the_highest_of_the_test_come_first(tmp_path):
  rows = [
    ScoredImage('train/good/0.png', 'held out', 'good', 9.0, None, None),
    ScoredImage('test/good/1.png', 'test', 'good', 0.123456789, 0.5, 'normal'),
    ScoredImage('test/hole/,".png', 'test', 'hole', 2.0, 1 / 3, 'anomalous'),
  ]
  write_scores(tmp_path / 'scores.csv', rows)
  with (tmp_path / 'scores.csv').open(newline='', encoding='utf-8') as file:
    read = list(csv.DictReader(file))
  assert [row['image'] for row in read] == [
    'test/hole/,".png',
    'test/good/1.png',
    'train/good/0.png',
  ]
  assert read[0] == {
    'image': 'test/hole/,".png',
    'split': 'test',
    'defect': 'hole',
    'score': '2',
    'p_value': '0.333333',
    'decision': 'anomalous',
  }
  assert read[1]['score'] == '0.123457'
  assert (read[2]['p_value'], read[2]['decision']) == ('', '')
