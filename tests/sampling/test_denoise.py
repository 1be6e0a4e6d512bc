from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.models import registry as models
from toolkit.models.flow_matching import sigma_schedule
from toolkit.sampling.denoise import denoise, guided_velocity, initial_noise

SHAPE = (16, 3, 4, 6)


def sample(
    denoiser: models.Denoiser, prompts: Tensor, negative: Tensor, seeds: list[int], scale: float, **more: Any
) -> Tensor:
    velocity = guided_velocity(denoiser, prompts, negative, scale)
    return denoise(velocity, initial_noise(seeds, SHAPE), sigma_schedule(3, 3.0), **more)


@pytest.fixture(scope="module")
def denoiser(tiny_wan: Path) -> models.Denoiser:
    return models.load_denoiser(str(tiny_wan))


def test_samples_equal_the_pipelines_for_the_same_seed(tiny_wan: Path, denoiser: models.Denoiser) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    pipe: Any = WanPipeline.from_pretrained(tiny_wan, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe.set_progress_bar_config(disable=True)
    embeds = models.load_encoders(str(tiny_wan)).encode_text(["a red cat walks", ""])
    theirs = pipe(
        prompt="a red cat walks",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).frames
    seen: list[int] = []
    ours = sample(denoiser, embeds[:1], embeds[1:], [3], 4.0, callback=lambda i, latents: seen.append(i))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert seen == [0, 1, 2]


def test_a_batch_equals_its_samples_alone(denoiser: models.Denoiser) -> None:
    prompts, negative = torch.randn(2, 8, 24), torch.randn(1, 8, 24)
    both = sample(denoiser, prompts, negative, [1, 2], 3.0)
    for i in range(2):
        one = sample(denoiser, prompts[i : i + 1], negative, [i + 1], 3.0)
        assert torch.allclose(both[i], one[0], atol=1e-5)


def test_guidance_one_needs_no_negative_prompt(denoiser: models.Denoiser) -> None:
    prompt = torch.randn(1, 8, 24)
    plain = sample(denoiser, prompt, torch.full((1, 8, 24), torch.nan), [1], 1)
    same = sample(denoiser, prompt, prompt, [1], 9)
    assert torch.allclose(plain, same, atol=1e-5)


def test_a_velocity_in_float64_leaves_float32_latents() -> None:
    noise = torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    sigmas = sigma_schedule(4, 3.0)
    ours = denoise(lambda latents, sigma: latents.double(), noise, sigmas)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, denoise(lambda latents, sigma: latents, noise, sigmas), atol=1e-6)
