"""Every field that all methods have, with its default and its meaning."""

from pathlib import Path

from memkd_jax.config.field import Field
from memkd_jax.data.names import MODULES

AUTO_TEACHER = 'auto'  # found, or downloaded, where a run begins
RANDOM_TEACHER = 'random'
DEMO_TEACHER = 'demo'  # a resnet18 that the package brings
DEMO_TEACHER_FILE = Path(__file__).parents[1] / 'teachers' / 'demo_teacher.safetensors'
DTYPES = ('float32', 'bfloat16', 'float64')
AUTO_DTYPE = 'auto'
VALIDATION = 'validation'  # of train.calibration: the publisher's images for it
DEFAULT_DTYPE = 'default'  # bfloat16 on TPUs
ALPHA_ROI = 'alpha'  # each image's own
BACKBONES = ('resnet18', 'resnet34', 'resnet50', 'wide_resnet50_2')
AUTO_BACKBONE = 'auto'
TINY_BACKBONES = ('tiny_basic', 'tiny_bottleneck')  # for tests; nobody has weights of them


# A number larger than `high` is a mistake: it would take all memory before anything could
# be said. The teacher's weights and the region of interest are resumable since their content
# counts, not their path.
FIELDS = (
  Field('seed', 0, 'Seed of all random numbers of a run', resumable=True),
  Field(
    'seeds',
    (),
    'Several seeds, in place of seed: a model is trained with each, and figures are means '
    'over them',
    resumable=True,
  ),
  Field('method.name', 'memkd', 'The method, chosen with the config: --config=FILE.py:METHOD'),
  Field(
    'sweep.variants', (), 'The variants of an ablation: ((name, ((field, value), ...)), ...)'
  ),
  Field(
    'sweep.given',
    (),
    'The fields that the command line sets; it adds them itself, so that variants of other '
    'methods take over values that are defaults of this one',
  ),
  Field('sweep.paper', '', "The paper's table to print beside an ablation, if any"),
  Field(
    'data.dataset',
    'mvtec_ad',
    'The data set, which says how its files are laid out',
    choices=tuple(MODULES),
  ),
  Field(
    'data.source',
    'folder',
    'Where images come from: the files as published, or what memkd prepare-tfds made of them',
    choices=('folder', 'tfds'),
    resumable=True,
  ),
  Field(
    'data.dir',
    '~/datasets/mvtec_ad',
    'Folder of the data set, by default its name under $MEMKD_DATA or ~/datasets; of the '
    'source tfds any path that TFDS opens',
    resumable=True,
  ),
  Field(
    'data.train_dir',
    'auto',
    "With data.dataset=folder: a category's folder of training images; auto takes train or "
    'training',
    resumable=True,
  ),
  Field(
    'data.test_dir',
    'auto',
    "With data.dataset=folder: a category's folder of test images; auto takes test or testing",
    resumable=True,
  ),
  Field(
    'data.normal_dir',
    'auto',
    'With data.dataset=folder: folder of normal images among those of a split; auto takes '
    'good, ok, normal or nominal',
    resumable=True,
  ),
  Field(
    'data.mask_dir',
    'auto',
    "With data.dataset=folder: a category's folder of masks; auto takes ground_truth, gt, mask "
    'or masks',
    resumable=True,
  ),
  Field(
    'data.categories',
    'all',
    "Names of categories separated by commas, or 'all'",
    resumable=True,
  ),
  Field(
    'data.image_size',
    256,
    'Size that the model sees, in pixels: of a square, or height,width; multiples of 32',
    high=8192,
    open_low=True,
    also=(tuple,),
  ),
  Field(
    'data.resize',
    'stretch',
    'How an image gets the size that the model sees: stretched to it; fit whole into it, with '
    'a border that is never scored; or as much of its middle as fills it',
    choices=('stretch', 'fit', 'crop'),
  ),
  Field(
    'data.roi',
    '',
    'Region of interest, outside of which nothing is learned, scored or reported: a picture, '
    'white inside, that is stretched to every image, {category} in its path standing for the '
    "category; or alpha for each image's own alpha channel",
    resumable=True,
  ),
  Field(
    'data.inputs',
    ('rgb',),
    'The pictures of an object that are looked at, each by a model of its own, and whose maps '
    'become one: photographs, depth, and normals of the surface (mvtec_3d, eyecandies)',
    choices=('rgb', 'depth', 'normals'),
  ),
  Field(
    'data.depth_range',
    'auto',
    'Heights that are black and white in the picture of depth, in the unit of the files: '
    'low,high; auto takes those of the training images',
    also=(tuple,),
  ),
  Field(
    'data.tiles',
    (),
    'rows,columns of tiles into which each image is cut, each of data.image_size; all that an '
    'image has, at more of its own resolution',
  ),
  Field(
    'data.tile_size',
    0,
    'In place of data.tiles the size of a tile in pixels of the images as they are: of a '
    'square, or height,width; 0 for none',
    high=8192,
    also=(tuple,),
  ),
  Field(
    'data.tile_overlap',
    0.25,
    "Share of a tile's side that it has in common with its neighbour, where images are cut",
    high=0.5,
  ),
  Field(
    'data.tile_models',
    'one',
    'With data.tiles: one model for all tiles, or one for each position of the grid, where '
    'parts are aligned',
    choices=('one', 'position'),
  ),
  Field(
    'data.threads',
    8,
    'Number of threads that decode images',
    high=256,
    open_low=True,
    resumable=True,
  ),
  Field(
    'data.memory',
    'auto',
    'Where decoded images are kept: in memory; or on the disk, in a file in data.scratch that '
    'is read by index ahead of the turn; auto takes the disk where they need more than a '
    'quarter of the memory that is free. No figure depends on it',
    choices=('auto', 'host', 'disk'),
    resumable=True,
  ),
  Field(
    'data.scratch',
    '',
    'Folder of an existing disk for that file, which has no name and is gone with the run; '
    "the run's folder if left out",
    resumable=True,
  ),
  Field(
    'data.disk_limit',
    0.0,
    'Gigabytes that such files may take together, those of features among them; 0 for nine '
    'tenths of what is free there',
    high=2**20,
    resumable=True,
  ),
  Field(
    'data.bit_depth',
    'auto',
    'How many bits of a file of 16 bits per channel the camera fills; auto takes the fewest of '
    '10, 12, 14 and 16 that hold all values of the training images',
    choices=('auto', '8', '10', '12', '14', '16'),
  ),
  Field(
    'model.backbone',
    'wide_resnet50_2',
    'Architecture of the teacher; auto takes resnet18 on a CPU, and wide_resnet50_2, that of '
    'the paper, on an accelerator',
    choices=('auto', *BACKBONES),
    unlisted=TINY_BACKBONES,
  ),
  Field(
    'model.teacher_weights',
    'auto',
    "The teacher: a file of memkd weights; or 'auto' for weights/{backbone}.safetensors where "
    'that is there, and else its ImageNet weights, which the first run downloads to '
    "~/.cache/memkd_jax/teachers; or 'demo' for the resnet18 that the package brings, or "
    "'random' for tests",
    resumable=True,
  ),
  Field(
    'model.dtype',
    DEFAULT_DTYPE,
    'Type of all numbers in the model; default is bfloat16 on a TPU, and float32 elsewhere; '
    'auto takes bfloat16 where that pays, which on a CPU is measured once; float64 needs '
    'JAX_ENABLE_X64=1 in the environment',
    choices=(DEFAULT_DTYPE, AUTO_DTYPE, *DTYPES),
    before='float32',
  ),
  Field(
    'train.holdout',
    0.0,
    'Share of the normal images that is kept out of the training, to set a threshold with',
    high=0.5,
  ),
  Field(
    'train.calibration',
    'holdout',
    'Where the threshold comes from: the images that train.holdout keeps out; train.folds '
    'further models, each of which scores the images that it has not learned from, while the '
    'model itself learns from all of them; auto, the first of these that has enough images; or '
    'the validation images that a benchmark brings along, while all others are learned from',
    choices=('holdout', 'folds', 'auto', VALIDATION),
  ),
  Field(
    'train.folds',
    4,
    'Number of further models that train.calibration=folds trains for the threshold',
    low=2,
    high=20,
  ),
  Field(
    'train.trackers',
    (),
    'Who is told losses, figures, fields and pictures beside the files of the run: '
    'tensorboard, mlflow, wandb, or MODULE:CLASS of your own, separated by commas',
    resumable=True,
  ),
  Field(
    'train.scope',
    'category',
    'A model for each category, or one joint model that learns from all of them; each has a '
    'threshold of its own either way',
    choices=('category', 'joint'),
  ),
  Field(
    'train.balance',
    'image',
    'With train.scope=joint: all images count the same, or all categories, of which smaller '
    'ones have their images taken several times',
    choices=('image', 'category'),
  ),
  Field(
    'parallel.axis',
    'batch',
    'What several devices share out: the images of every batch, or the categories, with as '
    'many models in training as there are devices',
    choices=('batch', 'category'),
    resumable=True,
  ),
  Field(
    'anomaly_map.combine',
    'sum',
    'How the maps of stages, or of several pictures, become one',
    choices=('sum', 'product', 'max'),
    scoring=True,
  ),
  Field(
    'anomaly_map.align_corners',
    True,
    "Whether corners stay in place when maps are enlarged, as in RD's code",
    scoring=True,
  ),
  Field(
    'anomaly_map.sigma',
    4.0,
    'Standard deviation of the Gaussian that smooths a map, in pixels of data.image_size',
    high=1024,
    scoring=True,
  ),
  Field(
    'anomaly_map.image_score',
    'max',
    "An image's score: the method's own, as a rule its map's highest value; or the mean of the "
    "map's highest hundredth",
    choices=('max', 'top'),
    scoring=True,
  ),
  Field(
    'anomaly_map.normalize',
    'none',
    "Whether the stages' maps are given in spreads from the mean of held-out normal images "
    'before they are combined: of each stage as a whole, or of each of its positions',
    choices=('none', 'stage', 'position'),
    scoring=True,
  ),
  Field(
    'eval.batch_size',
    16,
    'Number of images, or tiles of them, that are scored at once, on all devices together',
    high=2**16,
    open_low=True,
    resumable=True,
    scoring=True,
  ),
  Field(
    'eval.resolution',
    'model',
    "The size at which pixels are scored: the model's, of images in tiles that of all tiles "
    "together; or the original image's",
    choices=('model', 'original'),
    scoring=True,
  ),
  Field(
    'eval.preset',
    '',
    '',
    scoring=True,
    replaced=(
      ('rd4ad', 'eval.resolution', 'model'),
      ('original', 'eval.resolution', 'original'),
    ),
  ),
)
