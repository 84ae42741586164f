"""The server's endpoints."""

import asyncio
import base64
import io
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
from anyio import to_thread
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from memkd_jax import __version__
from memkd_jax.data.framing import RGB, seen_of
from memkd_jax.data.modalities import FURTHER
from memkd_jax.data.splits import describe_remarks
from memkd_jax.deploy.serving import schema
from memkd_jax.deploy.serving.batching import Batcher, BusyError
from memkd_jax.deploy.serving.guard import (
  CrowdMiddleware,
  JsonProblemsMiddleware,
  SecurityHeadersMiddleware,
)
from memkd_jax.deploy.serving.measures import Measures, MetricsMiddleware
from memkd_jax.deploy.serving.uploads import (
  FIELD,
  Limits,
  Upload,
  closing,
  images_of,
  receive_form,
)
from memkd_jax.report.overlay import color_range, heat_map
from memkd_jax.scoring.base import BaseDetector, Result
from memkd_jax.scoring.regions import Region, find_regions, outline

_STATIC = Path(__file__).with_name('static')
_FILES = {'/': 'page.html', '/docs': 'docs.html'} | {
  f'/{file.name}': file.name for file in sorted(_STATIC.iterdir()) if file.suffix != '.html'
}
# Requests at once, all paths together, beyond which the answer is 503 without a look at them.
CROWD = 256
LOOPBACK_NAMES = ('127.0.0.1', 'localhost', '[::1]')
_WRONG_HOST = 'Invalid host header'  # what TrustedHostMiddleware answers
_LONGEST = 1024  # pixels of the longer side of a picture
_MOST_REGIONS = 100  # of an image in an answer
_DECISIONS = {None: 'none', True: 'anomalous', False: 'normal'}
_FORM = {
  'requestBody': {
    'required': True,
    'content': {
      'multipart/form-data': {
        'schema': {
          'type': 'object',
          'required': [FIELD],
          'properties': {
            name: {'type': 'array', 'items': {'type': 'string', 'format': 'binary'}}
            for name in (FIELD, *FURTHER)
          },
        }
      }
    },
  }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
  400: {'model': schema.Problem, 'description': 'No image, or no form'},
  404: {'model': schema.Problem, 'description': 'No such category'},
  408: {'model': schema.Problem, 'description': 'The images came too slowly'},
  413: {'model': schema.Problem, 'description': 'Too many images or bytes'},
  415: {'model': schema.Problem, 'description': 'A file is no image'},
  422: {'model': schema.Problem, 'description': 'An image is broken, or has too many pixels'},
  503: {'model': schema.Problem, 'description': 'Busy or starting; see Retry-After'},
}


class Service:
  """What the endpoints share."""

  def __init__(
    self,
    detectors: Mapping[str, BaseDetector],
    limits: Limits,
    on_compiled: Callable[[Exception | None], None],
  ):
    """Takes loaded detectors by their category."""
    self.detectors = dict(detectors)
    self.limits = limits
    self.measures = Measures()
    # Enough that all devices stay busy while others are received, and few enough to hold.
    admitted = max(64, 4 * limits.images)
    self.batcher = Batcher(
      self.detectors.values(),
      admitted,
      on_batch=self.measures.on_batch,
      on_compiled=on_compiled,
    )
    self.measures.queue.set_function(lambda: self.batcher.admitted)
    self.measures.ready.set_function(lambda: self.batcher.ready)
    # A decoded image may have 100 megapixels, so few are decoded at once.
    self.decoders = anyio.CapacityLimiter(min(4, os.cpu_count() or 1))

  def choose(self, category: str | None) -> BaseDetector:
    """The detector of a category; the only one where none is named."""
    known = ', '.join(self.detectors)
    if category is None:
      if len(self.detectors) > 1:
        raise HTTPException(400, f'Name one of these with ?category=: {known}.')
      return next(iter(self.detectors.values()))
    if category not in self.detectors:
      raise HTTPException(404, f'There is no such category; these are served: {known}.')
    return self.detectors[category]

  async def score(
    self, detector: BaseDetector, uploads: list[Upload], overlay: bool, regions: bool
  ) -> list[schema.ImageScore]:
    """Decodes and scores the images of one request.

    Raises:
      HTTPException: one of them is no image, or broken.
    """
    decoded = [
      await to_thread.run_sync(
        upload.read, detector.framing, detector.bits, limiter=self.decoders
      )
      for upload in uploads
    ]
    futures = [self.batcher.submit(detector, image) for image, _ in decoded]
    results = await asyncio.gather(*map(asyncio.wrap_future, futures))
    scores = []
    for upload, (image, (width, height)), result in zip(uploads, decoded, results, strict=True):
      score = _image_score(upload.name, width, height, result)
      found: list[Region] = []
      if overlay or regions:
        found = await to_thread.run_sync(
          _regions, detector, image, (width, height), result, limiter=self.decoders
        )
        score.regions = [schema.RegionInfo.model_validate(region.facts()) for region in found]
      if overlay:
        lines = await to_thread.run_sync(_outlines, found, limiter=self.decoders)
        for info, line in zip(score.regions or (), lines, strict=True):
          info.outline = line
        score.picture, score.heat_map = await to_thread.run_sync(
          _pictures, detector, image, result.maps[0], (width, height), limiter=self.decoders
        )
      self.measures.images.labels(detector.category, _DECISIONS[score.anomalous]).inc()
      scores.append(score)
    return scores


def create_app(
  detectors: Mapping[str, BaseDetector],
  limits: Limits,
  hosts: tuple[str, ...] = LOOPBACK_NAMES,
  on_compiled: Callable[[Exception | None], None] = lambda failure: None,
) -> FastAPI:
  """The server.

  Args:
    detectors: the detectors that are served, by category; at least one.
    limits: how much one request may hold, and for how long.
    hosts: names by which it may be addressed, ports aside; ('*',) for any.
    on_compiled: is called once, with what went wrong in compiling, or None.

  Returns:
    The app; its lifespan compiles and stops, `app.state.service` is its `Service`.
  """
  service = Service(detectors, limits, on_compiled)

  @asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    service.batcher.start()
    try:
      yield
    finally:
      await to_thread.run_sync(service.batcher.close)

  app = FastAPI(
    title='memkd_jax inspection server',
    version=__version__,
    description='Scores images with models that learned what normal ones look like.',
    lifespan=lifespan,
    docs_url=None,  # its page loads its scripts from elsewhere; /docs is our own
    redoc_url=None,
    swagger_ui_oauth2_redirect_url=None,
  )
  app.state.service = service
  # The last one added is the first to see a request.
  app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
  app.add_middleware(CrowdMiddleware, most=CROWD)
  app.add_middleware(JsonProblemsMiddleware, sentences={_WRONG_HOST: _explain_host(hosts)})
  app.add_middleware(SecurityHeadersMiddleware)
  app.add_middleware(MetricsMiddleware, measures=service.measures)
  _add_scoring(app, service)
  _add_operation(app, service)
  for path, name in _FILES.items():
    _add_file(app, path, _STATIC / name)
  return app


def _add_scoring(app: FastAPI, service: Service) -> None:
  @app.get('/api/models', summary='The models, and the limits of a request')
  def models() -> schema.Models:
    return schema.Models(
      models=[_model_info(d) for d in service.detectors.values()],
      limits=schema.LimitsInfo(bytes=service.limits.bytes, images=service.limits.images),
    )

  @app.post(
    '/api/score',
    summary='Scores the images of a form; all of them, or none where one cannot be read',
    openapi_extra=_FORM,
    responses=_PROBLEMS,
  )
  async def score(
    request: Request,
    category: Annotated[str | None, Query(description='May be left out if one alone')] = None,
    overlay: Annotated[
      bool, Query(description='Add picture, heat map, regions, outlines')
    ] = False,
    regions: Annotated[bool, Query(description='Add regions')] = False,
  ) -> schema.Scores:
    detector = service.choose(category)
    if not service.batcher.ready:
      raise HTTPException(503, 'The models are being compiled; try again soon.', _retry(5))
    further = FURTHER if detector.framing.inputs != (RGB,) else ()
    try:
      # Before anything is received, so that those who wait cost nothing.
      with service.batcher.admit(1):
        form = await receive_form(request, service.limits, 1 + len(further))
        with closing(form):
          uploads = images_of(form, service.limits, further)
          with service.batcher.admit(len(uploads) - 1):
            images = await service.score(detector, uploads, overlay, regions)
    except BusyError:
      raise HTTPException(
        503, 'Too much is asked at once; try again soon.', _retry(1)
      ) from None
    threshold = None if detector.threshold is None else detector.threshold.value
    remarks = [remark for upload in uploads for remark in upload.remarks]
    return schema.Scores(
      category=detector.category,
      threshold=threshold,
      notes=[*detector.notes, *describe_remarks(remarks, detector.bits)],
      images=images,
    )


def _add_operation(app: FastAPI, service: Service) -> None:
  @app.get(
    '/healthz',
    summary='200 when images are scored',
    responses={503: {'model': schema.Health, 'description': 'Starting'}},
  )
  def healthz(response: Response) -> schema.Health:
    if service.batcher.ready:
      return schema.Health(status='ready')
    response.status_code = 503
    return schema.Health(status='failed' if service.batcher.failure else 'starting')

  @app.get('/metrics', summary='Figures for Prometheus', response_class=Response)
  def metrics() -> Response:
    return Response(generate_latest(service.measures.registry), media_type=CONTENT_TYPE_LATEST)

  @app.exception_handler(RequestValidationError)
  async def wrong_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    name = '.'.join(str(part) for part in first['loc'] if part != 'query')
    return JSONResponse({'detail': f'The parameter {name} is wrong: {first["msg"]}.'}, 422)

  @app.exception_handler(StarletteError)
  async def refused(request: Request, error: StarletteError) -> JSONResponse:
    usual = {
      'Not Found': 'There is nothing at this path; /docs names those that there are.',
      'Method Not Allowed': f'{request.method} is not possible here; see /docs.',
    }
    detail = usual.get(str(error.detail), error.detail)
    return JSONResponse({'detail': detail}, error.status_code, error.headers)

  @app.exception_handler(Exception)
  async def failed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({'detail': 'The server failed; its log says why.'}, 500)


def _explain_host(hosts: tuple[str, ...]) -> str:
  return (
    f'This server answers only to the names {", ".join(hosts)}; address it by one of them, or '
    'start it with --host=ADDRESS, an address of that machine, to reach it by any name.'
  )


def _add_file(app: FastAPI, path: str, file: Path) -> None:
  @app.get(path, include_in_schema=False)
  def static() -> FileResponse:
    return FileResponse(file, headers={'Cache-Control': 'no-cache'})


def _retry(seconds: int) -> dict[str, str]:
  return {'Retry-After': str(seconds)}


def _model_info(detector: BaseDetector) -> schema.ModelInfo:
  threshold, calibration = None, detector.calibration
  framing = detector.framing.to_json()
  if detector.threshold is not None:
    threshold = schema.ThresholdInfo(
      value=detector.threshold.value,
      false_alarm_rate=detector.threshold.false_alarm_rate,
      expected_rate=detector.threshold.expected,
      interval=detector.threshold.interval,
      held_out_images=0 if calibration is None else len(calibration.scores),
    )
  return schema.ModelInfo(
    category=detector.category,
    image_size=detector.image_size,
    inputs=detector.framing.inputs,
    tiling=detector.tiling.to_json(),
    framing=None if framing is None else framing | {'roi': framing['roi'] is not None},
    batch_size=detector.batch_size,
    threshold=threshold,
    undecided=detector.undecided,
    has_p_values=calibration is not None,
    notes=detector.notes,
  )


def _image_score(name: str, width: int, height: int, result: Result) -> schema.ImageScore:
  return schema.ImageScore(
    name=name,
    width=width,
    height=height,
    score=float(result.scores[0]),
    p_value=None if result.p_values is None else float(result.p_values[0]),
    anomalous=None if result.decisions is None else bool(result.decisions[0]),
    regions=None,
    picture=None,
    heat_map=None,
  )


def _regions(
  detector: BaseDetector, canvas: np.ndarray, size: tuple[int, int], result: Result
) -> list[Region]:
  """Of an image that is called anomalous; else none."""
  threshold = detector.pixel_threshold()
  if threshold is None or result.decisions is None or not result.decisions[0]:
    return []
  full, _ = detector.framing.to_image(result.maps[0], size, seen=seen_of(canvas))
  return find_regions(full, threshold)[:_MOST_REGIONS]


def _outlines(regions: list[Region]) -> list[list[tuple[float, float]]]:
  return [outline(region) for region in regions]


def _pictures(
  detector: BaseDetector,
  image: np.ndarray,
  map_: np.ndarray,
  size: tuple[int, int],
) -> tuple[str, str]:
  low, high = color_range(detector.calibration, detector.threshold, map_)
  picture = detector.framing.restored(image, size)
  picture.thumbnail((_LONGEST, _LONGEST))  # a canvas of tiles may be as large as it likes
  shown, _ = detector.framing.to_image(map_, size, picture.size, seen_of(image))
  hot = Image.fromarray(heat_map(np.asarray(picture), shown, low, high))
  return _data_url(picture), _data_url(hot)


def _data_url(image: Image.Image) -> str:
  stream = io.BytesIO()
  image.save(stream, 'PNG', compress_level=1)
  return 'data:image/png;base64,' + base64.b64encode(stream.getvalue()).decode('ascii')
