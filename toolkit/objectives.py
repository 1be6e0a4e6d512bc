"""What a training step minimises. To add one: a function like `velocity_loss` and a line in OBJECTIVES."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from toolkit.flow import interpolate, velocity_target
from toolkit.models import Denoiser

Objective = Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor], Tensor]


def velocity_loss(
    denoiser: Denoiser, latents: Tensor, prompt_embeds: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of the predicted velocity, averaged over each sample (Lipman et al. 2023); float32 (B,).

    latents, noise: (B, C, f, h, w). prompt_embeds: (B, L, D). sigma: (B,), in [0, 1].
    """
    predicted = denoiser(interpolate(latents, noise, sigma), sigma, prompt_embeds)
    error = predicted.float() - velocity_target(latents, noise).float()
    return error.square().flatten(1).mean(1)


OBJECTIVES: dict[str, Objective] = {"velocity": velocity_loss}
