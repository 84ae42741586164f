"""What the demo's teacher learns to foretell, against loops and stripes that are known."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def gabor_energies(monkeypatch):
  monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / 'tools'))
  import gabor_energies

  return gabor_energies


def test_filters_answer_to_no_even_light(gabor_energies):
  filters = gabor_energies.filters()
  assert filters.shape == (25, 25, 1, 2 * gabor_energies.NUMBER)
  np.testing.assert_allclose(filters.sum((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(np.abs(filters).sum((0, 1, 2)), 1, rtol=1e-5)


def stripes(wavelength, angle, size=64, contrast=50):
  y, x = np.mgrid[:size, :size]
  wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength)
  return np.repeat((128 + contrast * wave)[None, :, :, None], 3, -1).astype(np.float32)


@pytest.mark.parametrize('stride', [4, 8, 16])
def test_stripes_are_told_by_wavelength_and_orientation_alone(gabor_energies, stride):
  for i, wavelength in enumerate(gabor_energies.WAVELENGTHS):
    for j in range(gabor_energies.ORIENTATIONS):
      angle = j * np.pi / gabor_energies.ORIENTATIONS
      found = gabor_energies.energies(stripes(wavelength, angle), stride)
      assert found.shape == (1, 64 // stride, 64 // stride, gabor_energies.NUMBER)
      middle = np.asarray(found)[0, 32 // stride, 32 // stride]
      assert middle.argmax() == i * gabor_energies.ORIENTATIONS + j


def test_energies_against_loops(gabor_energies, rng):
  """A size that no stride divides, at every position of the coarsest stage."""
  images = rng.uniform(0, 255, (2, 34, 34, 3)).astype(np.float32)
  found = np.asarray(gabor_energies.energies(images, 16))
  assert found.shape == (2, 3, 3, gabor_energies.NUMBER)
  filters = gabor_energies.filters()[:, :, 0].astype(np.float64)
  grey = images.astype(np.float64) @ [0.299, 0.587, 0.114]
  grey = np.pad(grey, ((0, 0), (12, 12), (12, 12)), 'reflect')
  energy = np.empty((2, 34, 34, gabor_energies.NUMBER))
  for y in range(34):
    for x in range(34):
      answer = np.tensordot(grey[:, y : y + 25, x : x + 25], filters, 2)
      energy[:, y, x] = answer[:, 0::2] ** 2 + answer[:, 1::2] ** 2
  for i in range(3):
    for j in range(3):
      total, weights = np.zeros((2, gabor_energies.NUMBER)), 0.0
      for y in range(34):
        for x in range(34):
          distance = (y - 16 * i) ** 2 + (x - 16 * j) ** 2
          weight = np.exp(-distance / (2 * gabor_energies.SIGMAS[16] ** 2))
          total, weights = total + weight * energy[:, y, x], weights + weight
      log = np.log(1 + total / weights)
      expected = log - log.mean(1, keepdims=True)
      np.testing.assert_allclose(found[:, i, j], expected, atol=2e-4)


def test_contrast_does_not_matter_until_energies_are_near_one(gabor_energies, rng):
  image = rng.uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
  hundred, fifty, little = (gabor_energies.energies(c * image, 8) for c in (100, 50, 0.02))
  np.testing.assert_allclose(hundred, fifty, atol=0.01)
  assert np.abs(little).max() < 0.2 < np.abs(fifty).max()


def test_whitened_energies_vary_alike(gabor_energies, rng):
  sample = rng.normal(size=(50, 6, 6, 4)) @ rng.normal(size=(4, 4)) + 3
  white = np.asarray(gabor_energies.Whitening.of(sample, 0.0)(sample)).reshape(-1, 4)
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=1e-3)
  faint = gabor_energies.Whitening.of(1e-3 * sample)(1e-3 * sample)
  assert np.std(faint) < 0.1
