import dataclasses

import numpy as np
import pytest
from PIL import Image

from memkd_jax.data import folder, splits
from memkd_jax.data.sample import GOOD, Sample
from memkd_jax.data.splits import load_split
from memkd_jax.errors import UserError


def test_what_does_not_fit_into_memory_is_said(tmp_path, make_category, monkeypatch):
  make_category(tmp_path)
  samples = folder.list_samples(tmp_path, 'bolt', 'train')

  def refuse(*_):
    raise MemoryError

  monkeypatch.setattr(splits.np, 'empty', refuse)
  with pytest.raises(
    UserError, match=r'10 images of 16x16 pixels .*lower --config\.data\.imag'
  ):
    load_split(samples, (16, 16), 2)


def test_all_broken_files_are_named_at_once_up_to_a_bound(tmp_path, make_category):
  make_category(tmp_path, train=14)
  samples = folder.list_samples(tmp_path, 'bolt', 'train')
  for sample in samples[:2]:
    sample.image.write_bytes(b'')
  with pytest.raises(
    UserError, match=r'^2 samples cannot be read: .*000\.png .*001\.png '
  ) as two:
    load_split(samples, (16, 16), 2)
  assert 'more' not in str(two.value)
  for sample in samples[:12]:
    sample.image.write_bytes(b'')
  with pytest.raises(UserError, match=r'^12 samples .*009\.png .*And 2 more\.$') as many:
    load_split(samples, (16, 16), 2)
  assert '010.png' not in str(many.value)


def test_soft_masks_are_counted_in_one_note(tmp_path, make_category):
  make_category(tmp_path, size=48)
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  expected = load_split(samples, (48, 48), 2)
  assert expected.notes == ()
  soft = []
  for sample in samples:
    if sample.mask is not None:
      Image.open(sample.mask).save(sample.mask.with_suffix('.jpg'), quality=75)
      sample = dataclasses.replace(sample, mask=sample.mask.with_suffix('.jpg'))
    soft.append(sample)
  split = load_split(soft, (48, 48), 2)
  assert split.notes == (
    '3 masks hold more than two values; they were thresholded at half of their range.',
  )
  np.testing.assert_array_equal(split.masks, expected.masks)


def test_values_above_the_range_of_the_training_images_are_noted(tmp_path):
  for name, value in (('a', 4095), ('b', 4096), ('c', 60000)):
    Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / f'{name}.png')
  samples = [Sample(p.name, {'rgb': p}, None, GOOD) for p in sorted(tmp_path.iterdir())]
  split = load_split(samples, (8, 8), 2, bits=12)
  assert (split.images == 255).all()
  assert split.bits == 12
  assert split.notes == (
    'Images of 16 bits per channel were read as 12-bit values, 0 to 4095 (data.bit_depth).',
    '2 images hold values above 4095, the highest of 12 bits; they were clipped.',
  )
  assert load_split(samples, (8, 8), 2).notes == ()
