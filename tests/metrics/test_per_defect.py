import numpy as np
import pytest

from memkd_jax.metrics import aupro, auroc, per_defect


def test_each_kind_stands_against_all_normal_images(rng):
  defects = ['good', 'hole', 'crack', 'good', 'crack']
  scores = rng.normal(size=5)
  masks = np.zeros((5, 6, 6), int)
  masks[[1, 2, 4], 2:4, 2:5] = 1
  maps = rng.normal(size=(5, 6, 6)) + masks
  table = per_defect(defects, scores, masks, maps)
  assert list(table) == ['crack', 'hole']
  chosen = [0, 2, 3, 4]
  assert table['crack']['I-AUC'] == auroc([0, 1, 0, 1], scores[chosen])
  assert table['crack']['P-PRO'] == aupro(masks[chosen], maps[chosen])
  assert table['hole']['P-AUC'] == auroc(masks[[0, 1, 3]], maps[[0, 1, 3]])
  assert 'P-AUC' not in per_defect(defects, scores)['hole']


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="nothing but 'good'"):
    per_defect(['good'], [0.1])
  with pytest.raises(ValueError, match='defects has 1 entries'):
    per_defect(['good'], [0.1, 0.2])
  with pytest.raises(ValueError, match='give both or neither'):
    per_defect(['good', 'hole'], [0.1, 0.2], masks=np.ones((2, 2, 2)))
  with pytest.raises(ValueError, match='nothing is normal'):
    per_defect(['hole', 'hole'], [0.1, 0.2])
