"""What the server answers, as it stands in its OpenAPI description."""

from typing import Any

from pydantic import BaseModel, Field


class ThresholdInfo(BaseModel):
  """By what images are called anomalous."""

  value: float = Field(description='An image is anomalous where its score is higher.')
  false_alarm_rate: float | None = Field(
    description='That was asked for; null where the value was set by hand.'
  )
  expected_rate: float | None = Field(
    description='To be expected; null where no images were held out.'
  )
  interval: tuple[float, float] | None = Field(
    description='95% interval of the true rate; null likewise.'
  )
  held_out_images: int = Field(description='Normal images that tell these rates.')


class ModelInfo(BaseModel):
  """One model that is served."""

  category: str
  image_size: tuple[int, int] = Field(
    description='Height and width of the image that the model sees, in pixels.'
  )
  inputs: tuple[str, ...] = Field(
    description="What it looks at: 'rgb', 'depth', 'normals'; all but 'rgb' come from files "
    'in further fields of the form.'
  )
  tiling: dict[str, Any] | None = Field(
    description='How images are cut into tiles of that size; null where they are resized.'
  )
  framing: dict[str, Any] | None = Field(
    description='How images lie on their canvases, and whether a region of interest alone '
    'counts; null where they are stretched and all of them counts.'
  )
  batch_size: int
  threshold: ThresholdInfo | None = Field(description='Null where it does not decide.')
  undecided: str | None = Field(description='Why it does not decide; null where it does.')
  has_p_values: bool = Field(description='Whether images were held out to tell them.')
  notes: list[str] = Field(description='Sentences that must stand beside its results.')


class LimitsInfo(BaseModel):
  """What a request may hold."""

  bytes: int
  images: int


class Models(BaseModel):
  """All that is served."""

  models: list[ModelInfo]
  limits: LimitsInfo


class RegionInfo(BaseModel):
  """A connected part of an image above the pixel threshold, in pixels of the image."""

  left: int
  top: int
  width: int
  height: int
  area: int
  row: float = Field(description='Of the centroid.')
  column: float
  peak_row: int = Field(description='Of the highest value.')
  peak_column: int
  score: float = Field(description='The highest value.')
  outline: list[tuple[float, float]] | None = Field(
    default=None,
    description='Corners [column, row] of a closed line around it, holes aside; 0 is the left '
    'or upper edge of the image. Null without overlay.',
  )


class ImageScore(BaseModel):
  """What the model says of one image."""

  name: str = Field(description="The file's name, cut to 200 characters.")
  width: int
  height: int
  score: float = Field(description='The highest value of its anomaly map.')
  p_value: float | None = Field(
    description='Probability that a normal image scores as high or higher.'
  )
  anomalous: bool | None = Field(description='Null where the model does not decide.')
  regions: list[RegionInfo] | None = Field(
    description='Of an anomalous image, that with the highest value first; at most 100.'
  )
  picture: str | None = Field(description='What the model saw, a PNG as data: URL.')
  heat_map: str | None = Field(description='The same under its heat map.')


class Scores(BaseModel):
  """The images of one request, in their order."""

  category: str
  threshold: float | None
  notes: list[str]
  images: list[ImageScore]


class Health(BaseModel):
  """Whether images are scored."""

  status: str


class Problem(BaseModel):
  """Why a request was refused."""

  detail: str
