"""The site of docs/: `python -m sphinx -W docs docs/_build`. It needs no network."""

import sys
from pathlib import Path

import memkd_jax

sys.path.insert(0, str(Path(__file__).with_name('_extensions')))

project = 'memkd_jax'
author = copyright = 'The memkd_jax authors'
version = release = memkd_jax.__version__

extensions = [
  'myst_parser',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'directives',
  'rewriting',
]
exclude_patterns = ['_build']
smartquotes = False  # or --config in a sentence has one dash
highlight_language = 'none'  # of blocks that name no language: trees of files, output

# Pages are written for a plain viewer of the repository as well: links to headings are those
# that it makes, and the plan of the rooms is drawn there by mermaid.
myst_heading_anchors = 4
myst_fence_as_directive = ['mermaid']

default_role = 'literal'  # what stands between backticks in a docstring
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
# Types of other libraries, and of this one's inside, stand as they are, without an address.
nitpicky = True
nitpick_ignore_regex = [
  ('py:.*', r'(collections|jax|numpy|os|pathlib|typing|PIL)\..*'),
  ('py:.*', r'memkd_jax\.(config|data|deploy|scoring|workdir|metrics\.ranking)\..*'),
  ('py:.*', r'memkd_jax\.detector\.Program'),
]
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are listed with their class, and not once more

html_theme = 'furo'
html_title = f'memkd_jax {version}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
