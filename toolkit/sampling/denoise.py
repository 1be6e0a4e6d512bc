"""From noise to latents: the one sampling loop, and the network with a prompt as a velocity function.

A *velocity function* maps ``(latents, sigma)`` to the velocity there. Guidance (`guided_velocity`), LoRAs
(`samplers.with_adapters`), masked LoRAs and collaborative sampling are velocity functions that wrap one
another. `denoise` follows any velocity function; `generate`, previews, reports and attention maps use it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolkit.models.flow_matching import Velocity, guided
from toolkit.models.interfaces import Denoiser


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int, int]) -> Tensor:
    """One sample of noise per seed, (B, C, f, h, w), float32 on the CPU.

    It equals the noise that diffusers makes from ``torch.Generator("cpu").manual_seed(seed)``. So a seed
    gives the same video in both, and on every device.
    """
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def denoise(
    velocity: Velocity,
    latents: Tensor,
    sigmas: Tensor,
    callback: Callable[[int, Tensor], object] | None = None,
) -> Tensor:
    """Follow the velocity from sigmas[0] to sigmas[-1] in len(sigmas) - 1 Euler steps.

    Args:
        velocity: Any velocity function.
        latents: (B, C, f, h, w) at noise level sigmas[0], usually pure noise.
        sigmas: Falling noise levels on the device of the latents; see `flow_matching.sigma_schedule`.
        callback: Gets the number of each step and the latents after it.

    Returns:
        Latents at sigmas[-1], with the type and device of the input.
    """
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        latents = (latents + (following - sigma) * velocity(latents, sigma)).to(latents.dtype)
        if callback is not None:
            callback(step, latents)
    return latents


def guided_velocity(
    denoiser: Denoiser, prompt_embeds: Tensor, negative_embeds: Tensor, guidance_scale: float
) -> Velocity:
    """The network with a prompt and classifier-free guidance, as a velocity function.

    prompt_embeds: (B, L, D). negative_embeds: (B or 1, L, D). Not used where guidance_scale is 1.
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
