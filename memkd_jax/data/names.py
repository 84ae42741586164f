"""The data sets by name, which cost nothing to know; `datasets` imports their readers."""

# Of each the module below `data` that describes it. A further one is a file and a line here.
MODULES = {
  'mvtec_ad': 'benchmarks.mvtec_ad',
  'visa': 'benchmarks.visa',
  'mpdd': 'benchmarks.mpdd',
  'mvtec_3d': 'benchmarks.mvtec_3d',
  'eyecandies': 'benchmarks.eyecandies',
  'mvtec_loco': 'benchmarks.mvtec_loco',
  'mvtec_ad_2': 'benchmarks.mvtec_ad_2',
  'btad': 'benchmarks.btad',
  'ksdd': 'benchmarks.ksdd',
  'ksdd2': 'benchmarks.ksdd2',
  'vad': 'benchmarks.vad',
  'real_iad': 'benchmarks.real_iad',
  'dagm': 'benchmarks.dagm',
  'folder': 'folder',
  'folder_3d': 'folder_3d',
  'images': 'image_list',
  'demo': 'benchmarks.demo_textures',
}
