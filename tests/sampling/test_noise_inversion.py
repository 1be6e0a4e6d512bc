"""Inversion on a flow whose velocity is known: a mixture of Gaussians, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toolkit.models.flow_matching import sigma_schedule
from toolkit.sampling.denoise import denoise
from toolkit.sampling.noise_inversion import cached, invert, mix_noise, standardised

SHAPE = (1, 4, 3, 4, 4)


def mixture(latents: Tensor, sigma: Tensor) -> Tensor:
    """The exact velocity of a flow from noise to the mixture of N(±1, 0.3²), the same for every number."""
    keep = 1 - sigma
    variance = keep**2 * 0.09 + sigma**2
    score = torch.zeros_like(latents)
    weights = torch.stack([-((latents - keep * mean) ** 2) / (2 * variance) for mean in (-1, 1)]).softmax(0)
    for weight, mean in zip(weights, (-1, 1), strict=True):
        clean = mean + keep * 0.09 / variance * (latents - keep * mean)
        noise = sigma / variance * (latents - keep * mean)
        score += weight * (noise - clean)
    return score


def data() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, SHAPE, generator=generator).double() * 2 - 1
    return signs + 0.3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def test_a_constant_flow_is_inverted_exactly() -> None:
    sigmas, drift = sigma_schedule(7, 3.0).double(), torch.randn(SHAPE, dtype=torch.float64)
    noise = invert(lambda latents, sigma: drift, data(), sigmas)
    torch.testing.assert_close(noise, data() + sigmas[0] * drift)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_denoising_inverted_noise_returns_the_data(shift: float) -> None:
    """More forwards a level, a closer return; and noise that is nearly of unit variance."""
    sigmas = sigma_schedule(50, shift).double()
    errors = []
    for iterations in (1, 2, 4):
        noise = invert(mixture, data(), sigmas, iterations=iterations)
        errors.append(float((denoise(mixture, noise, sigmas) - data()).square().mean().sqrt()))
    assert errors[0] < 0.05
    assert errors[2] < errors[1] < errors[0]
    assert 0.9 < float(noise.std()) < 1.15


def test_velocity_is_never_evaluated_at_sigma_zero() -> None:
    asked: list[float] = []

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return mixture(latents, sigma)

    levels: list[int] = []
    sigmas = sigma_schedule(5, 3.0).double()
    invert(velocity, data(), sigmas, iterations=2, callback=levels.append)
    assert asked == pytest.approx(sorted([*sigmas[:-1].tolist()] * 2))
    assert levels == [0, 1, 2, 3, 4]


def test_noise_is_standardised_per_channel_over_all_frames() -> None:
    noise = 3 + 2 * torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    noise[:, :, 2] += 1  # a frame of its own
    same = standardised(noise)
    torch.testing.assert_close(same.mean((2, 3, 4)), torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(same.var((2, 3, 4), correction=0), torch.ones(2, 4, dtype=torch.float64))
    assert (same[:, :, 2].mean((2, 3)) > 0.1).all()  # frames keep what sets them apart
    torch.testing.assert_close(standardised(same), same)


def test_mixed_noise_keeps_its_variance() -> None:
    inverted, noise = torch.randn(1, 4, 8, 32, 32), torch.randn(2, 4, 8, 32, 32)
    assert torch.equal(mix_noise(inverted, noise, 0.0), noise)
    torch.testing.assert_close(mix_noise(inverted, noise, 1.0), inverted.expand_as(noise))
    mixed = mix_noise(inverted, noise, 0.3)
    assert mixed.var().item() == pytest.approx(1, abs=0.02)
    share = (mixed * inverted).mean() / inverted.square().mean()
    assert share.item() == pytest.approx(0.3**0.5, abs=0.02)


def test_inverted_noise_is_cached(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> Tensor:
        calls.append(1)
        return torch.randn(SHAPE, dtype=torch.float64)

    first = cached(tmp_path, "clip", {"file": "a", "steps": "5"}, make)
    again = cached(tmp_path, "clip", {"steps": "5", "file": "a"}, make)
    assert torch.equal(first, again)
    assert first.dtype == torch.float32
    assert len(calls) == 1
    cached(tmp_path, "clip", {"file": "a", "steps": "6"}, make)
    assert len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2
