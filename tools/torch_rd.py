# mypy: ignore-errors
# torch is an extra: where it is missing, nothing here has a type.
"""A plain PyTorch model of the same layers, to be timed beside ours: RD, with memories or not.

It is written as its users would who want it fast: channels_last, the teacher recomputed at
every step with its BatchNorm in place, RD's decoder with `ConvTranspose2d`, `torch.optim.Adam`,
fused on a GPU.
"""

import peak
import torch
from torch import nn
from torch.nn import functional

from memkd_jax.models.resnet import ARCHITECTURES, Architecture
from memkd_jax.ops.normalization import IMAGENET_MEAN, IMAGENET_STD
from memkd_jax.ops.resampling import gaussian_matrix


def conv_norm(inputs: int, outputs: int, side: int, stride: int = 1) -> nn.Sequential:
  """A convolution and its BatchNorm."""
  return nn.Sequential(
    nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs)
  )


def up_norm(inputs: int, outputs: int) -> nn.Sequential:
  """A transposed convolution that doubles the resolution, and its BatchNorm."""
  return nn.Sequential(
    nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs)
  )


class Block(nn.Module):
  """A residual block that keeps, halves (stride 2) or doubles (up) the resolution."""

  def __init__(
    self, arch: Architecture, stage: int, inputs: int, stride: int = 1, up: bool = False
  ):
    super().__init__()
    outputs = arch.channels(stage)

    def spatial(n: int, m: int) -> nn.Sequential:
      return up_norm(n, m) if up else conv_norm(n, m, 3, stride)

    if arch.block == 'basic':
      layers = [spatial(inputs, outputs), conv_norm(outputs, outputs, 3)]
    else:
      width = outputs // arch.expansion * arch.width_factor
      layers = [
        conv_norm(inputs, width, 1),
        spatial(width, width),
        conv_norm(width, outputs, 1),
      ]
    self.layers = nn.ModuleList(layers)
    self.shortcut: nn.Module = nn.Identity()
    if up:
      self.shortcut = up_norm(inputs, outputs)
    elif stride != 1 or inputs != outputs:
      self.shortcut = conv_norm(inputs, outputs, 1, stride)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = x
    for layer in self.layers[:-1]:
      y = layer(y).relu_()
    return (self.layers[-1](y) + self.shortcut(x)).relu_()


def stage_of(
  arch: Architecture, stage: int, inputs: int, blocks: int, **first: object
) -> nn.Sequential:
  """Blocks of a stage; `first` are options of the first."""
  rest = [Block(arch, stage, arch.channels(stage)) for _ in range(blocks - 1)]
  return nn.Sequential(Block(arch, stage, inputs, **first), *rest)


class Teacher(nn.Module):
  """Stem and stages 1 to 3."""

  def __init__(self, arch: Architecture):
    super().__init__()
    self.stem = conv_norm(3, arch.planes, 7, 2)
    widths = [arch.planes, *(arch.channels(k) for k in (1, 2, 3))]
    self.stages = nn.ModuleList(
      stage_of(arch, k, widths[k - 1], arch.blocks[k - 1], stride=1 if k == 1 else 2)
      for k in (1, 2, 3)
    )

  def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
    x = functional.max_pool2d(self.stem(x).relu_(), 3, 2, 1)
    outputs = []
    for stage in self.stages:
      x = stage(x)
      outputs.append(x)
    return outputs


class Memory(nn.Module):
  """Keys and values addressed by cosines."""

  def __init__(self, items: int, features: int):
    super().__init__()
    self.keys = nn.Parameter(torch.randn(items, features))
    self.values = nn.Parameter(torch.randn(items, features))

  def recall(self, x: torch.Tensor, addresses: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] -> [B, C, H, W]."""
    cosines = torch.einsum(
      'bchw,lc->blhw', functional.normalize(x, dim=1), functional.normalize(addresses, dim=1)
    )
    return torch.einsum('blhw,lc->bchw', cosines.softmax(1), self.values)


class Distiller(nn.Module):
  """Bottleneck, decoder and, where there are items, a memory before each of its stages."""

  def __init__(self, arch: Architecture, items: int):
    super().__init__()
    c1, c2, c3, c4 = (arch.channels(k) for k in (1, 2, 3, 4))
    self.down1 = nn.ModuleList([conv_norm(c1, c2, 3, 2), conv_norm(c2, c3, 3, 2)])
    self.down2 = conv_norm(c2, c3, 3, 2)
    self.embed = stage_of(arch, 4, 3 * c3, arch.blocks[3], stride=2)
    factor = 2 if items else 1
    self.decoder = nn.ModuleList(
      stage_of(arch, k, factor * arch.channels(k + 1), arch.blocks[3 - k], up=True)
      for k in (3, 2, 1)
    )
    self.memories = nn.ModuleList(Memory(items, width) for width in (c4, c3, c2) if items)

  def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The student's stages 1 to 3, and the embedding."""
    x1 = features[0]
    for layer in self.down1:
      x1 = layer(x1).relu_()
    x2 = self.down2(features[1]).relu_()
    x = embedding = self.embed(torch.cat([x1, x2, features[2]], 1))
    outputs = []
    for i, stage in enumerate(self.decoder):
      if self.memories:
        x = torch.cat([x, self.memories[i].recall(x, self.memories[i].keys)], 1)
      x = stage(x)
      outputs.append(x)
    return outputs[::-1], embedding


class Distillation:
  """Trains and scores as the distillation of memkd_jax does."""

  def __init__(
    self,
    backbone: str,
    items: int,
    size: int,
    device: str,
    dtype: str = 'float32',
    compiled: bool = False,
  ):
    """Random weights: speed does not depend on them.

    Args:
      backbone: a key of `ARCHITECTURES`.
      items: L, 0 for RD.
      size: side of the images in pixels.
      device: torch's name of its kind, 'cpu' or 'cuda'.
      dtype: 'float32', or 'bfloat16' for autocast of the networks, not of losses and maps.
      compiled: whether loss and scoring go through `torch.compile`.
    """
    arch = ARCHITECTURES[backbone]
    self.device, self.size = device, size
    self._half = dtype == 'bfloat16'
    place = {'device': device, 'memory_format': torch.channels_last}
    self.teacher = Teacher(arch).eval().requires_grad_(False).to(**place)
    self.distiller = Distiller(arch, items).to(**place)
    self.optimizer = torch.optim.Adam(
      self.distiller.parameters(), lr=0.005, betas=(0.5, 0.999), fused=device == 'cuda'
    )
    self._run_loss, self._run_maps = self._loss, self._maps
    if compiled:
      # A program for each shape, as ours has.
      self._run_loss = torch.compile(self._loss, dynamic=False)
      self._run_maps = torch.compile(self._maps, dynamic=False)
    self._mean = torch.tensor(IMAGENET_MEAN, device=device)[:, None, None]
    self._std = torch.tensor(IMAGENET_STD, device=device)[:, None, None]
    self._blur = torch.tensor(gaussian_matrix(size, 4.0), dtype=torch.float32, device=device)

  def train_step(self, images: torch.Tensor, exemplars: torch.Tensor) -> torch.Tensor:
    """One step on uint8 [B, S, S, 3] of any device; the loss, which may be on its way yet."""
    if not self.distiller.training:
      self.distiller.train()
    loss = self._run_loss(self._sent(images), self._sent(exemplars))
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.optimizer.step()
    return loss.detach()

  def score(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Smoothed maps [B, S, S] and scores [B] of uint8 [B, S, S, 3], on the host."""
    maps, scores = self.score_on_device(images)
    return maps.cpu(), scores.cpu()

  @torch.inference_mode()
  def score_on_device(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `score`, on the device, and perhaps on their way yet."""
    if self.distiller.training:
      self.distiller.eval()
    return self._run_maps(self._sent(images))

  def _sent(self, images: torch.Tensor) -> torch.Tensor:
    return images.to(self.device, non_blocking=True)

  def _autocast(self) -> torch.autocast:
    return torch.autocast(self.device, torch.bfloat16, enabled=self._half)

  def _loss(self, images: torch.Tensor, exemplars: torch.Tensor) -> torch.Tensor:
    memories = self.distiller.memories
    with self._autocast():
      with torch.no_grad():
        features = self._features(images)
        of_exemplars = self._features(exemplars)[:0:-1] if memories else []
      student, embedding = self.distiller(features)
      targets = [embedding.detach(), *of_exemplars] if memories else []
      recalled = [m.recall(t, m.values) for m, t in zip(memories, targets, strict=True)]
    loss = sum(
      (1 - functional.cosine_similarity(_rows(t), _rows(s))).mean()
      for t, s in zip(features, student, strict=True)
    )
    for memory, target, found in zip(memories, targets, recalled, strict=True):
      loss = loss + self._memory_loss(memory, target.float(), found.float()) / len(targets)
    return loss

  def _maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with self._autocast():
      features = self._features(images)
      student, _ = self.distiller(features)
    maps = sum(
      functional.interpolate(
        1 - functional.cosine_similarity(t.float(), s.float())[:, None],
        self.size,
        mode='bilinear',
        align_corners=True,
      )
      for t, s in zip(features, student, strict=True)
    )[:, 0]
    maps = self._blur @ maps @ self._blur.T
    return maps, maps.amax((1, 2))

  def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
    """Of uint8 [B, S, S, 3] on the device; what they become lies there as channels_last."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    return self.teacher((pixels - self._mean) / self._std)

  def _memory_loss(
    self, memory: Memory, target: torch.Tensor, recalled: torch.Tensor
  ) -> torch.Tensor:
    loss = 0.1 * (1 - functional.cosine_similarity(target, recalled)).mean()
    for items in (memory.keys, memory.values):
      unit = functional.normalize(items, dim=1)
      number = len(items)
      off = (unit @ unit.T) ** 2 * (1 - torch.eye(number, device=self.device))
      loss = loss + 0.1 * off.sum() / (number * (number - 1))
    return loss


def _rows(x: torch.Tensor) -> torch.Tensor:
  """float32 [B, H W C]: in the order in which channels_last has them, so that none moves."""
  return x.float().permute(0, 2, 3, 1).flatten(1)


def prefer_speed(device: str) -> None:
  """On a GPU, TF32 for float32 products and convolutions, and kernels that are tried out."""
  if device == 'cuda':
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def measure_peak(device: str, dtype: str) -> float:
  """FLOP per second of a large matrix product, see `peak`."""
  side, calls = peak.shape(device == 'cuda')
  a = torch.from_numpy(peak.matrix(side)).to(device, getattr(torch, dtype))
  wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
  return peak.fastest(lambda: a @ a, wait, side, calls)
