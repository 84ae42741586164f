"""Event files, read back record by record."""

import sys

import numpy as np
import pytest
from PIL import Image

from memkd_jax.trackers import Trackers
from memkd_jax.trackers.tracker import Place

pytest.importorskip('tensorboardX')


def events_of(path):
  """The events of a file, each of whose records has a length and two checksums."""
  from tensorboardX.event_file_writer import EventsWriter  # noqa: F401
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.record_writer import masked_crc32c

  content = path.read_bytes()
  while content:
    length = int.from_bytes(content[:8], 'little')
    event = content[12 : 12 + length]
    assert int.from_bytes(content[12 + length : 16 + length], 'little') == masked_crc32c(event)
    content = content[16 + length :]
    yield Event.FromString(event)


def scalars_of(path):
  return [
    (event.step, value.tag, value.simple_value)
    for event in events_of(path)
    for value in event.summary.value
    if value.HasField('simple_value')
  ]


def test_losses_without_tensorflow(tmp_path):
  with Trackers(['tensorboard'], Place.of(tmp_path, 0, {})) as told:
    told.write(1, {'loss': 0.5, 'kd': 0.25})
    told.write(2, {'loss': 0.125, 'kd': 0.0625})
  (path,) = (tmp_path / 'tensorboard').iterdir()
  assert scalars_of(path) == [
    (1, 'loss', 0.5),
    (1, 'kd', 0.25),
    (2, 'loss', 0.125),
    (2, 'kd', 0.0625),
  ]
  assert 'tensorflow' not in sys.modules


def test_figures_fields_and_pictures(tmp_path):
  from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

  pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / 'figure.png')
  fields = {'train.lr': 0.5, 'data.inputs': ('rgb',)}
  with Trackers(['tensorboard'], Place.of(tmp_path, 7, fields)) as told:
    told.finish({'I-AUC': 0.75}, {'figure': tmp_path / 'figure.png'})
  (path,) = (tmp_path / 'tensorboard').iterdir()
  assert scalars_of(path) == [(7, 'I-AUC', 0.75)]
  values = [value for event in events_of(path) for value in event.summary.value]
  (image,) = (value.image for value in values if value.HasField('image'))
  (tmp_path / 'again.png').write_bytes(image.encoded_image_string)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'again.png')), pixels)
  plugins = [HParamsPluginData.FromString(v.metadata.plugin_data.content) for v in values]
  (started,) = (p.session_start_info for p in plugins if p.HasField('session_start_info'))
  assert {name: value.string_value for name, value in started.hparams.items()} == {
    'train.lr': '0.5',
    'data.inputs': "('rgb',)",
  }


def test_a_resumed_training_hides_what_was_beyond_its_checkpoint(tmp_path):
  from tensorboardX.proto.event_pb2 import SessionLog

  with Trackers(['tensorboard'], Place.of(tmp_path, 4, {})):
    pass
  (path,) = (tmp_path / 'tensorboard').iterdir()
  starts = [e.step for e in events_of(path) if e.session_log.status == SessionLog.START]
  assert starts == [5]
