import dataclasses

import numpy as np
import pytest

from memkd_jax.data import folder, splits
from memkd_jax.data.splits import Decoder, load_split
from memkd_jax.errors import UserError


def test_a_second_modality_is_a_decoder_and_a_reader(tmp_path, make_category, monkeypatch):
  make_category(tmp_path)
  samples = folder.list_samples(tmp_path, 'bolt', 'test')
  expected = load_split(samples, 16, 2)
  points = [tmp_path / f'{i}.npy' for i in range(len(samples))]
  for i, path in enumerate(points):
    np.save(path, np.full((16, 16, 3), i / 4, np.float32))
  with_points = [
    dataclasses.replace(s, inputs={**s.inputs, 'xyz': p})
    for s, p in zip(samples, points, strict=True)
  ]
  decoder = Decoder(lambda path, size: (np.load(path), (32, 32)), 3, np.float32)
  monkeypatch.setitem(splits.DECODERS, 'xyz', decoder)
  split = load_split(with_points, 16, 2)
  assert split.inputs['xyz'].dtype == np.float32
  np.testing.assert_array_equal(split.inputs['xyz'][:, 0, 0, 0], np.arange(6) / 4)
  np.testing.assert_array_equal(split.images, expected.images)
  assert split.images is split.inputs['rgb']
  np.testing.assert_array_equal(split.sizes, expected.sizes)


def test_what_does_not_fit_into_memory_is_said(tmp_path, make_category, monkeypatch):
  make_category(tmp_path)
  samples = folder.list_samples(tmp_path, 'bolt', 'train')

  def refuse(*_):
    raise MemoryError

  monkeypatch.setattr(splits.np, 'empty', refuse)
  with pytest.raises(
    UserError, match=r'10 images of 16x16 pixels .*lower --config\.data\.imag'
  ):
    load_split(samples, 16, 2)
