import errno

import pytest

from memkd_jax.data import datasets, folder
from memkd_jax.errors import UserError, explain
from memkd_jax.run import run_config


@pytest.mark.parametrize(
  ('number', 'remedy'),
  [
    (errno.EACCES, 'give this user access to it'),
    (errno.ENOSPC, 'make room there, and run the same command again'),
    (errno.EROFS, 'choose a place that can be written to'),
  ],
)
def test_the_systems_errors_come_with_a_remedy(number, remedy):
  sentence = explain(OSError(number, 'Some reason', '/some/path'))
  assert sentence == f'/some/path: Some reason; {remedy}.'


def test_other_errors_stay_as_they_are():
  assert explain(UserError('a sentence.')) == 'a sentence.'
  assert explain(OSError(errno.EIO, 'Input/output error', '/x')).endswith("error: '/x'")


def test_a_category_that_may_not_be_read_fails_alone(
  tiny_config, tmp_path, make_category, monkeypatch
):
  make_category(tmp_path / 'data', 'bolt')
  make_category(tmp_path / 'data', 'nut')

  def forbidden(root, category, split):
    raise PermissionError(errno.EACCES, 'Permission denied', f'{root}/{category}/{split}')

  listing = folder.list_categories
  dataset = datasets.Dataset(
    None, 'Put your own images there', '', forbidden, list_categories=listing
  )
  monkeypatch.setitem(datasets.DATASETS, 'folder', dataset)
  results = run_config(tiny_config, tmp_path / 'run')
  denied = f'{tmp_path}/data/bolt/train: Permission denied; give this user access to it.'
  assert results['failed']['bolt'] == denied
  assert list(results['failed']) == ['bolt', 'nut']
