"""Coloured noise: exact covariance, spectrum and independence."""

import math

import numpy as np
import pytest
import torch

from diffplan.errors import ArgumentError
from diffplan.functional import colour_noise


def filter_matrix(steps: int, exponent: float) -> torch.Tensor:
    """The filter is linear in time: its matrix, from unit impulses `[T, T]`."""
    eye = torch.eye(steps, dtype=torch.float64)
    return colour_noise(eye, exponent)


@pytest.mark.parametrize("steps", [1, 2, 5, 12, 31])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_variance_is_one_at_every_step(steps: int, exponent: float) -> None:
    matrix = filter_matrix(steps, exponent)
    variance = (matrix @ matrix.mT).diagonal()
    torch.testing.assert_close(variance, torch.ones(steps, dtype=torch.float64))


@pytest.mark.parametrize("steps", [8, 9])
def test_power_at_each_frequency_follows_the_law(steps: int) -> None:
    matrix = filter_matrix(steps, exponent=2.0).numpy()
    power = np.abs(np.fft.rfft(matrix[:, 0])) ** 2
    frequency = np.fft.rfftfreq(steps)
    ratio = power[1:] * frequency[1:] ** 2
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-10)
    np.testing.assert_allclose(power[0], power[1], rtol=1e-10)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_measured_spectrum_has_the_slope(exponent: float) -> None:
    # 4000 draws: the mean power at a frequency is known to 1/√4000 = 1.6 %, and a
    # line through 31 of them has a slope good to about 0.01.
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(4000, 64, 1, generator=generator, dtype=torch.float64)
    noise = colour_noise(white, exponent)[..., 0].numpy()
    power = (np.abs(np.fft.rfft(noise, axis=1)) ** 2).mean(axis=0)[1:-1]
    frequency = np.fft.rfftfreq(64)[1:-1]
    slope = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.03)


def test_higher_exponents_are_smoother() -> None:
    roughness = []
    for exponent in (0.0, 1.0, 2.0, 3.0):
        matrix = filter_matrix(20, exponent)
        covariance = matrix @ matrix.mT
        roughness.append(2 - 2 * covariance.diagonal(1).mean().item())
    assert roughness == sorted(roughness, reverse=True)
    assert roughness[0] == pytest.approx(2.0)


def test_dimensions_and_candidates_stay_apart() -> None:
    white = torch.zeros(2, 3, 6, 2)
    white[1, 2, :, 0] = torch.linspace(-1, 1, 6)
    noise = colour_noise(white, 2.0)
    assert (noise[0] == 0).all()
    assert (noise[1, :2] == 0).all()
    assert (noise[1, 2, :, 1] == 0).all()
    assert (noise[1, 2, :, 0] != 0).any()


def test_white_noise_is_returned_as_it_is() -> None:
    white = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    assert colour_noise(white, 0.0) is white


@pytest.mark.parametrize("exponent", [-1.0, math.nan, math.inf])
def test_exponents_without_a_spectrum_are_refused(exponent: float) -> None:
    with pytest.raises(ArgumentError, match="exponent: expected"):
        colour_noise(torch.ones(4, 1), exponent)


def test_any_finite_exponent_gives_finite_noise() -> None:
    white = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    for exponent in (1e-3, 30.0, 1e6):
        assert torch.isfinite(colour_noise(white, exponent)).all()


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 0, 2), (3, 4, 0)])
def test_nothing_stays_nothing(shape: tuple[int, ...]) -> None:
    assert colour_noise(torch.zeros(shape), 1.0).shape == shape
