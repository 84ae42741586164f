import numpy as np
import pytest
from PIL import Image

from memkd_jax.data.framing import Framing
from memkd_jax.data.sample import Sample
from memkd_jax.data.splits import Split
from memkd_jax.report.cases import choose_same, write_cases


@pytest.mark.parametrize(
  ('defects', 'expected'),
  [
    ([], []),
    (['good'], [0]),
    (['good', 'hole', 'good', 'good', 'hole'], [0, 1, 2, 3, 4]),
    (['crack'] * 3 + ['good'] * 5 + ['hole'], [1, 2, 5, 6, 7, 8]),
    ([chr(ord('a') + i) for i in range(9)], [0, 1, 2, 3, 4, 5]),
  ],
  ids=['none', 'one', 'few', 'rounds', 'many_kinds'],
)
def test_images_are_chosen_by_their_kind_alone(defects, expected):
  assert choose_same(defects) == expected


def test_a_normal_image_is_among_many_kinds():
  kinds = [chr(ord('a') + i) for i in range(9)] + ['good']
  assert 9 in choose_same(kinds)


@pytest.mark.parametrize('with_masks', [True, False])
def test_strips_show_image_truth_and_map(tmp_path, rng, with_masks):
  samples = tuple(Sample(f'{i}.png', {'rgb': tmp_path}, None, d) for i, d in enumerate('ab'))
  images = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
  masks = np.zeros((2, 128, 128), bool)
  masks[1, :, 64:] = True
  maps = masks.astype(np.float32)
  split = Split(
    samples,
    images,
    masks if with_masks else None,
    np.full((2, 2), 128),
    Framing((128, 128)),
  )
  write_cases(tmp_path / 'cases', split, maps)
  files = {p.stem: np.asarray(Image.open(p)) for p in (tmp_path / 'cases').iterdir()}
  assert files.keys() == ({'image', 'map', 'truth'} if with_masks else {'image', 'map'})
  assert {f.shape for f in files.values()} == {(128, 260, 3)}
  np.testing.assert_array_equal(files['image'][:, :128], images[0])
  np.testing.assert_array_equal(files['image'][:, 132:], images[1])
  # The second image's right half is hot, all else is cold.
  assert files['map'][:, :128].max() < 10 < files['map'][:, 196:].min()
  if with_masks:
    assert (files['truth'][:, 196:] == 255).all()
    assert not files['truth'][:, :128].any()
