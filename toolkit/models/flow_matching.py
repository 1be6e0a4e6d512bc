"""Flow matching as in Wan, as functions on tensors.

    x_sigma = (1 - sigma) x0 + sigma eps,   v = dx/dsigma = eps - x0,   sigma in [0, 1], 1 = pure noise

x0 is the normalised latent, eps is Gaussian noise. A *velocity function* maps ``(latents, sigma)`` to the
velocity at that point. `toolkit.sampling.denoise` integrates one along a schedule of sigmas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, C, f, h, w), sigma) to the velocity, of the shape of the latents."""


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the noisy latents at ``sigma``: (1 - sigma) x0 + sigma noise.

    x0, noise: (B, ...) of one shape. sigma: scalar or (B,), in [0, 1]. Returns (B, ...).
    """
    sigma = _over_batch(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the training target at every noise level: noise - x0, of the shape of x0."""
    return noise - x0


def shifted(u: Tensor, shift: float) -> Tensor:
    """Shift noise levels u in [0, 1] towards 1: s u / (1 + (s - 1) u). A shift of s = 1 changes nothing."""
    return shift * u / (1 + (shift - 1) * u)


def sample_sigmas(n: int, *, mean: float, std: float, shift: float, generator: torch.Generator) -> Tensor:
    """Sample n noise levels for training from a shifted logit-normal; float32 (n,), in (0, 1).

    mean, std: Parameters of the normal before the sigmoid (Esser et al. 2024, section 3.1).
    """
    return shifted(torch.sigmoid(mean + std * torch.randn(n, generator=generator)), shift)


def sigma_quantiles(n: int, *, mean: float, std: float, shift: float) -> Tensor:
    """Return the midpoint quantiles of the distribution of `sample_sigmas`; float32 (n,), ascending."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return shifted(torch.sigmoid(mean + std * torch.special.ndtri(u)), shift).float()


def sigma_schedule(steps: int, shift: float) -> Tensor:
    """Return the noise levels for sampling; float32 (steps + 1,), descending from 1 to 0.

    They equal those of diffusers' FlowMatchEulerDiscreteScheduler(shift) in WanPipeline: the smallest of its
    1000 training levels is shifted, an even grid from 1 down to it is shifted *again*, and 0 is appended.
    """
    smallest = shifted(torch.tensor(1 / 1000, dtype=torch.float64), shift)
    grid = 1 + (smallest - 1) * torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.cat([shifted(grid, shift), torch.zeros(1, dtype=torch.float64)]).float()


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance (Ho & Salimans 2022). A scale of 1 is no guidance, as in diffusers."""
    return uncond + scale * (cond - uncond)


def _over_batch(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1)) if sigma.ndim else sigma
