"""--config.field=value: a value is taken, or its field is named."""

import json
import random
from pathlib import Path

from bad_input import mutations
from bad_input.outcome import check
from bad_input.target import Target
from memkd_jax import config as base
from memkd_jax import main, methods, sweep

_CONFIG = Path(__file__).parents[2] / 'configs' / 'mvtec.py'
_ODD_FIELDS = ('', 'data', 'model', 'x.y', '__class__', 'data.__class__', 'seed.real', 'MODEL')
_VALUES = """
  0 -1 -0 1.5 1e3 1e308 1e999 1e-300 5e-324 1j nan inf abc None True 0x10 1_000 1,2 [1] {} " %s
  () (1, (3,2,1) (None,) ((1,),) (1.0,) (1,2,"x") ("a",) ((1,2),) {"a":1} b'x' lambda:0
  {backbone} {x} /dev/zero ../.. ~nobody_of_this_name __import__("os").system("true")
  (("a",(("seed",1),)),) (("a",(("no.field",1),)),) (("a",(("no.field",1),)),)
  (("a",(("seed","x"),)),) (("a",(("seed.x",1),)),) (("a",()),("a",()))
"""
_MORE_VALUES = ('', ' ', 'a\nb', '\x1b[2J', '\udce9', '\uff11', '(' * 300 + ')' * 300)
_MORE_VALUES += ('(' * 100_000, 'a' * 100_000, '9' * 30, '9' * 5000, '0x' + 'f' * 5000)


class Overrides(Target):
  """The flags and the checks of `methods.resolve`, as `main` calls them."""

  def run(self, number: int, folder: Path) -> None:
    rng = self.random(number)
    valid = base.flatten(json.loads(methods.get_config().to_json()))
    field = rng.choice(list(valid))
    value = rng.choice((*_VALUES.split(), *_MORE_VALUES))
    if rng.random() < 0.2:
      value = _misspell(rng, str(valid[field]))
    if rng.random() < 0.15:
      wrong = (f'{field}.x', f'{field}[0]', f'{field}.0', f'.{field}', field[:-1])
      field = rng.choice((*_ODD_FIELDS, *wrong))
    parts = [part for part in field.replace('[', '.').split('.') if part]
    self.expect(f'--config.{field}', f' {field} ', *(f"'{part}'" for part in parts))
    config = main.load_config(str(_CONFIG), [f'--config.{field}={value}'])
    sweep.variants(config)
    resolved = methods.resolve(config)
    flat = base.flatten(resolved.to_dict())
    for limited in methods.fields('memkd'):
      if limited.high is not None:
        found = flat[limited.name]
        check(limited.low <= found <= limited.high, f'{limited.name} is {found}')
    json.loads(resolved.to_json())

  def problem(self, message: str) -> str | None:
    return (
      f'it has {len(message)} characters' if len(message) > 1000 else super().problem(message)
    )


def _misspell(rng: random.Random, value: str) -> str:
  damaged = mutations.flip(rng, value.encode() or b'0')
  return damaged.replace(b'\0', b'').decode(errors='ignore')
