"""What is proposed for images, and for the smallest defect in them."""

import numpy as np
import pytest

from memkd_jax.data.advice import SEEN, narrowest, propose

LARGE = [(2048, 1536)] * 3


@pytest.mark.parametrize(
  ('sizes', 'defect', 'fields'),
  [
    ([(256, 256)], None, {}),
    ([(700, 700)], None, {}),
    ([(400, 300)], None, {'data.image_size': '224,288'}),
    (LARGE, None, {'data.tile_size': '512'}),
    (LARGE, 6, {'data.tile_size': '192'}),
    (LARGE, 1, {'data.tile_size': '64'}),
    (LARGE, 60, {'data.image_size': '224,288'}),
    ([(900, 900)], 5, {'data.tile_size': '160'}),
    ([(100, 100)], 2, {'data.tile_size': '64'}),
    ([(100, 100)], 4, {}),
  ],
)
def test_proposals(sizes, defect, fields):
  proposal = propose(sizes, defect)
  assert proposal.fields() == fields
  assert all(sentence.endswith('.') for sentence in proposal.why)


@pytest.mark.parametrize('defect', [2, 3, 6, 11, 25])
def test_what_is_proposed_is_seen(defect):
  tiling = propose(LARGE, defect).tiling
  height, width = tiling.canvas(LARGE[0])
  assert min(width / 2048, height / 1536) * defect >= SEEN - 0.1


def test_the_narrowest_regions():
  masks = np.zeros((3, 40, 60), bool)
  masks[0, 3:9, 10:50] = True  # 6 by 40
  masks[0, 20:30, 5:17] = True
  masks[2, 10:18, 10:14] = True  # 4 wide
  assert narrowest(masks) == 4
  many = np.zeros((10, 400), bool)
  many[2:7, ::10] = many[2:7, 1::10] = True  # 40 regions of 2 by 5
  many[5, 5] = True  # and a speck
  assert narrowest([many]) == 2
  assert narrowest(masks[1:2]) is None


def test_images_of_several_shapes_are_put_in_whole():
  found = propose([(400, 100), (100, 400), (200, 200)], None)
  assert found.fields()['data.resize'] == 'fit'
  assert found.tiling.size == (256, 256)
  assert 'data.resize' not in propose([(400, 300), (200, 150)], None).fields()
