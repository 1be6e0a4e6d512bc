"""From noise to latents: a denoiser run by Euler steps, for generating and for looking on while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolkit.models.flow_matching import Velocity, guided, sample_euler, sigma_schedule
from toolkit.models.interfaces import Denoiser


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int, int]) -> Tensor:
    """One sample of noise per seed, (B, C, f, h, w), float32 on the CPU.

    Drawn as diffusers draws it from ``torch.Generator("cpu").manual_seed(seed)``: a seed means the same
    video here and there, and on every device.
    """
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    prompt_embeds: Tensor,
    negative_embeds: Tensor,
    *,
    shape: tuple[int, int, int, int],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    shift: float,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Sample normalised latents (B, C, f, h, w), float32 on the CPU, by Euler steps with guidance.

    prompt_embeds: (B, L, D). negative_embeds: (B or 1, L, D), used where guidance_scale is not 1.
    shape: (C, f, h, w) of one sample. seeds: one per prompt. callback(i, latents) after each step.
    """
    device = denoiser.device
    velocity = guided_velocity(denoiser, prompt_embeds, negative_embeds, guidance_scale)
    latents = initial_noise(seeds, shape).to(device)
    return sample_euler(velocity, latents, sigma_schedule(steps, shift).to(device), callback).cpu()


def guided_velocity(
    denoiser: Denoiser, prompt_embeds: Tensor, negative_embeds: Tensor, guidance_scale: float
) -> Velocity:
    """The network with a prompt and guidance as a velocity function of latents (B, C, f, h, w).

    prompt_embeds: (B, L, D). negative_embeds: (B or 1, L, D), used where guidance_scale is not 1.
    """
    cond = prompt_embeds.to(denoiser.device)
    uncond = negative_embeds.to(denoiser.device).expand_as(cond)

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        if guidance_scale == 1:
            return denoiser(latents, sigma, cond)
        # both in one forward pass
        with_prompt, without = denoiser(
            latents.repeat(2, 1, 1, 1, 1), sigma, torch.cat([cond, uncond])
        ).chunk(2)
        return guided(with_prompt, without, guidance_scale)

    return velocity
