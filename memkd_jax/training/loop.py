"""Gradient descent from the newest checkpoint to the last step."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from memkd_jax.errors import UserError
from memkd_jax.runtime import hosts, interrupt
from memkd_jax.runtime.devices import Devices, explicit_transfers
from memkd_jax.runtime.progress import progress_bar
from memkd_jax.training.metrics_log import MetricsLog
from memkd_jax.training.plateau import Plateau
from memkd_jax.training.profiler import StepTrace
from memkd_jax.training.shared_checkpoints import SharedCheckpoints
from memkd_jax.training.step import TrainState
from memkd_jax.training.step_log import StepLogger

# Which arguments a step takes, by its number from 0.
Draw = Callable[[int], tuple[Any, ...]]
# The key of a checkpoint's metadata that tells the model that the training goes on from.
WARM_START = 'warm_start'


@dataclasses.dataclass(frozen=True)
class LoopOptions:
  """How a loop goes about its steps; none of it changes a parameter.

  Attributes:
    name: the task's name, for the progress bar.
    batch_size: images of a step, of all devices together.
    checkpoint_steps: steps from one checkpoint to the next.
    log_steps: steps from one logged line to the next.
    trackers: the names of those that get what is logged, see `trackers`.
    fields: the config that trackers are told, {'section.field': value}.
    profile: whether a few steps are traced.
    check: `(step, terms)`; raises where training has no meaning any more.
    order: sorts the names of terms for the log.
  """

  name: str
  batch_size: int
  checkpoint_steps: int
  log_steps: int
  trackers: tuple[str, ...]
  fields: Mapping[str, Any]
  profile: bool
  check: Callable[[int, Mapping[str, float]], None]
  order: Callable[[Iterable[str]], list[str]]


def train(
  state: TrainState,
  step: Callable[..., tuple[Any, Any]],
  prepare: Callable[[], Draw],
  steps: int,
  folder: Path,
  *,
  devices: Devices,
  metadata: Mapping[str, Any],
  options: LoopOptions,
  plateau: Plateau | None = None,
) -> tuple[TrainState, dict[str, float]]:
  """Trains to the last step, from the newest checkpoint where there is one.

  The order, which resuming relies on: restore or initialise; then for each step
  draw, step, check and log the terms of the step before (so that the device
  is never waited for), and save where it is due, the training ends or a signal came. Only
  states whose terms were checked are saved. While steps are taken and their terms fetched
  nothing moves between host and devices unasked, see `devices.explicit_transfers`.

  Args:
    state: the state before the first step, numpy arrays.
    step: pmapped `(state, *drawn) -> (state, terms)`.
    prepare: called once if there are steps to take; gives what draws their arguments.
    steps: the number of the last step.
    folder: the folder in which checkpoints/ and metrics.jsonl lie.
    devices: the devices that the step is mapped over.
    metadata: JSON values that tell the training images from others, and `WARM_START`.
    options: the loop's intervals, its trackers and its checks.
    plateau: ends the training before its last step, if any.

  Returns:
    The final state, as numpy arrays, and the terms of its last step (empty
    where nothing was left to do).

  Raises:
    JaxRuntimeError: what is drawn moves something between host and devices unasked.
    UserError: a term was NaN or infinite, or there are checkpoints that are damaged
      or were trained on other images, or began with another model.
    OSError: a checkpoint could not be written.
    interrupt.Interrupted: a signal came; what was done is saved.
  """
  last_terms: dict[str, float] = {}
  with SharedCheckpoints(folder / 'checkpoints') as checkpoints:
    if checkpoints.latest_step() is not None:
      _check_same(folder / 'checkpoints', checkpoints.read_metadata(), metadata)
      state = checkpoints.restore(state)
    start = int(state.step)
    ended = plateau is not None and plateau.begin(start)
    if start == steps or ended:
      return state, last_terms
    draw = prepare()
    on_devices = devices.replicate(state)
    profiled = options.profile and hosts.is_main()
    images = options.batch_size
    with (
      interrupt.deferred() as stop_after,
      MetricsLog(folder, start, options.trackers, options.fields) as log,
      StepTrace(folder, start, profiled) as trace,
      progress_bar(options.name, steps * images, start * images, leave=True) as progress,
    ):
      logger = StepLogger(
        devices,
        log,
        progress,
        batch_size=images,
        log_steps=options.log_steps,
        check=options.check,
        order=options.order,
      )
      progress.set_postfix_str('compiling ...')  # until the first step's loss takes its place
      for number in range(start, steps):
        trace.before_step(number, on_devices)
        done = number + 1
        with explicit_transfers(), trace.annotated(number):
          logger.begin_input()
          on_devices, terms = step(on_devices, *devices.put(draw(number)))
          logger.begin(done, terms)
        stopping = stop_after()
        ended = done == steps or (plateau is not None and plateau.check(done, on_devices))
        if done % options.checkpoint_steps == 0 or ended or stopping:
          last_terms = logger.finish(last=ended)
          state = devices.unreplicate(on_devices)
          checkpoints.save(done, state, dict(metadata))
        if ended or stopping:
          break
      checkpoints.wait()
  return state, last_terms


def _check_same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Raises UserError where checkpoints are of another training."""
  if there.get(WARM_START) != now.get(WARM_START):
    raise UserError(
      f'{folder} began with another model than --warm-start has now; give it the same one, or '
      'choose another --workdir.'
    )
  if there != now:
    raise UserError(
      f'{folder} began with other training images; give it the same ones, or choose another '
      '--workdir.'
    )
