from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit.models import registry as models
from toolkit.sampling.denoise import sample_latents

SHAPE = (16, 3, 4, 6)


@pytest.fixture(scope="module")
def denoiser(tiny_wan: Path) -> models.Denoiser:
    return models.load_denoiser(str(tiny_wan))


def test_samples_are_the_pipelines_for_the_same_seed(tiny_wan: Path, denoiser: models.Denoiser) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    pipe: Any = WanPipeline.from_pretrained(tiny_wan, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipe.set_progress_bar_config(disable=True)
    embeds = models.load_encoders(str(tiny_wan)).encode_text(["a red cat walks", ""])
    theirs = pipe(
        prompt="a red cat walks",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).frames
    seen: list[int] = []
    ours = sample_latents(
        denoiser,
        embeds[:1],
        embeds[1:],
        shape=SHAPE,
        seeds=[3],
        steps=5,
        guidance_scale=4.0,
        shift=3.0,
        callback=lambda i, latents: seen.append(i),
    )
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert seen == [0, 1, 2, 3, 4]


def test_a_batch_is_its_members(denoiser: models.Denoiser) -> None:
    prompts, negative = torch.randn(2, 8, 24), torch.randn(1, 8, 24)
    settings: dict[str, Any] = {"shape": SHAPE, "steps": 3, "guidance_scale": 3.0, "shift": 2.0}
    both = sample_latents(denoiser, prompts, negative, seeds=[1, 2], **settings)
    for i in range(2):
        one = sample_latents(denoiser, prompts[i : i + 1], negative, seeds=[i + 1], **settings)
        assert torch.allclose(both[i], one[0], atol=1e-5)


def test_no_guidance_needs_no_negative(denoiser: models.Denoiser) -> None:
    prompt = torch.randn(1, 8, 24)
    settings: dict[str, Any] = {"shape": SHAPE, "seeds": [1], "steps": 2, "shift": 2.0}
    plain = sample_latents(denoiser, prompt, torch.full((1, 8, 24), torch.nan), guidance_scale=1, **settings)
    same = sample_latents(denoiser, prompt, prompt, guidance_scale=9, **settings)
    assert torch.allclose(plain, same, atol=1e-5)
