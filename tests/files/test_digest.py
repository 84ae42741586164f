import pytest

from memkd_jax.files.digest import DIGEST, check_result, digest

RESULT = {'metrics': {'I-AUC': 0.5, 'I-AP': 1}, 'counts': {'train': 3}, 'notes': ['Note.']}


def test_what_was_written_comes_back():
  assert check_result(RESULT | {DIGEST: digest(RESULT)}) == RESULT
  assert check_result(RESULT) == RESULT  # of the first version
  backwards = dict(reversed(RESULT.items()))
  assert digest(backwards) == digest(RESULT)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'metrics': {'I-AUC': 0.6, 'I-AP': 1}, DIGEST: digest(RESULT)}, 'checksum'),
    ({'metrics': {'I-AUC': 1.5}}, 'metrics'),
    ({'metrics': {'I-AUC': '0.5'}}, 'metrics'),
    ({'metrics': {'I-AUC': True}}, 'metrics'),
    ({'metrics': None}, 'metrics'),
    ({'counts': {'train': 0.5}}, 'counts'),
    ({'counts': {'train': -1}}, 'counts'),
    ({'counts': []}, 'counts'),
    ({'notes': 'Note.'}, 'notes'),
    ({'notes': [1]}, 'notes'),
  ],
)
def test_anything_else_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    check_result(RESULT | change)
  with pytest.raises(ValueError, match='no JSON object'):
    check_result([])
