from __future__ import annotations

import pytest
import torch

from toolkit.core.seeds import generator_for
from toolkit.models import flow_matching as flow
from toolkit.sampling.denoise import denoise


def test_interpolate_ends_at_data_and_noise_and_has_the_target_as_slope() -> None:
    x0, noise = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    assert torch.equal(flow.interpolate(x0, noise, torch.zeros(2)), x0)
    assert torch.equal(flow.interpolate(x0, noise, torch.tensor(1.0)), noise)
    sigma = torch.tensor([0.25, 0.75])
    slope = (flow.interpolate(x0, noise, sigma + 0.125) - flow.interpolate(x0, noise, sigma)) / 0.125
    assert torch.allclose(slope, flow.velocity_target(x0, noise), atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_schedule_equals_diffusers(steps: int, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = flow.sigma_schedule(steps, shift)
    assert ours.shape == (steps + 1,)
    assert ours[[0, -1]].tolist() == [1, 0]
    assert torch.allclose(ours, scheduler.sigmas, atol=1e-6)


def test_euler_is_exact_on_a_straight_path() -> None:
    x0, noise = torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    seen: list[int] = []
    out = denoise(
        lambda latents, sigma: flow.velocity_target(x0, noise),
        noise,
        flow.sigma_schedule(7, 3.0),
        lambda i, latents: seen.append(i),
    )
    assert torch.allclose(out, x0, atol=1e-5)
    assert seen == list(range(7))


def test_guidance_one_is_conditional_and_zero_unconditional() -> None:
    cond, uncond = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(flow.guided(cond, uncond, 1.0), cond, atol=1e-6)
    assert torch.equal(flow.guided(cond, uncond, 0.0), uncond)


def test_sigmas_follow_their_distribution() -> None:
    drawn = flow.sample_sigmas(20_000, mean=0.3, std=1.1, shift=3.0, generator=generator_for(0, 0, "sigma"))
    assert drawn.min() > 0
    assert drawn.max() < 1
    expected = flow.sigma_quantiles(4, mean=0.3, std=1.1, shift=3.0)
    assert torch.allclose(drawn.quantile(torch.tensor([0.125, 0.375, 0.625, 0.875])), expected, atol=0.01)


def test_generators_repeat_and_differ_by_seed_step_and_name() -> None:
    def first(seed: int, step: int, what: str) -> float:
        return float(torch.rand(1, generator=generator_for(seed, step, what)))

    assert first(1, 2, "noise") == first(1, 2, "noise")
    assert len({first(1, 2, "noise"), first(2, 2, "noise"), first(1, 3, "noise"), first(1, 2, "sigma")}) == 4
