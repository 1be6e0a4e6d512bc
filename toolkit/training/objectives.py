"""Training objectives. To add one: a function like `motion`, its line in OBJECTIVES, and its name in
`toolkit.training.settings.ObjectiveName`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from toolkit.lora.layers import activate
from toolkit.models.flow_matching import interpolate, velocity_target
from toolkit.models.interfaces import Denoiser
from toolkit.training.batches import Batch
from toolkit.training.settings import Objective


@dataclass(frozen=True)
class Criterion:
    """What the predicted velocity is compared with, and how.

    Attributes:
        target: (denoiser, x, batch) to the target, float32 (B, C, f, h, w), without gradient. x is the batch
            at its noise levels.
        loss: (predicted, target, batch) to the loss of each row, float32 (B,).
    """

    target: Callable[[Denoiser, Tensor, Batch], Tensor]
    loss: Callable[[Tensor, Tensor, Batch], Tensor]


def velocity(settings: Objective, appearance: Tensor | None = None) -> Criterion:
    """Plain flow matching (Lipman et al. 2023): the squared error of the velocity."""
    return Criterion(true_velocity, lambda predicted, target, batch: mean_square(predicted - target))


def motion(settings: Objective, appearance: Tensor | None = None) -> Criterion:
    """VideoMage's motion objective: see `motion_target` and `motion_loss`.

    appearance: embedding (1, L, D) of the appearance prompt; may be None if omega is 0.
    """
    motion = settings.motion
    return Criterion(
        partial(motion_target, omega=motion.omega, appearance=appearance),
        partial(motion_loss, debiased=motion.debiased, adjacent=motion.adjacent),
    )


def true_velocity(denoiser: Denoiser, x: Tensor, batch: Batch) -> Tensor:
    """eps - x0, float32 (B, C, f, h, w)."""
    return velocity_target(batch.latents, batch.noise).float()


def mean_square(error: Tensor) -> Tensor:
    """The mean of the squares of each row, (B,)."""
    return error.square().flatten(1).mean(1)


def velocity_loss(
    denoiser: Denoiser, latents: Tensor, prompt_embeds: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """The loss of `velocity` for each row, float32 (B,).

    latents, noise: (B, C, f, h, w). prompt_embeds: (B, L, D). sigma: (B,), in [0, 1].
    """
    predicted = denoiser(interpolate(latents, noise, sigma), sigma, prompt_embeds).float()
    return mean_square(predicted - velocity_target(latents, noise).float())


def motion_target(
    denoiser: Denoiser, x: Tensor, batch: Batch, *, omega: float, appearance: Tensor | None
) -> Tensor:
    """The target of VideoMage, section 3.3, in velocities: (1 + omega) v - omega v_base(x, sigma, c_ap).

    v is the true velocity, v_base the prediction of the base model (all adapters off) for the appearance
    prompt c_ap. Preserved rows keep the true velocity.

    With eps = x + (1 - sigma) v, this is the paper's eps_free; x cancels. Only the weights of noise levels
    differ: the paper's loss on eps weighs them by (1 - sigma)^2, which suppresses the high levels, at which
    the motion is decided.

    appearance: embedding (1, L, D) of c_ap.

    Raises:
        ValueError: omega is not 0 and there is no appearance prompt: a mistake in castmix.
    """
    target = true_velocity(denoiser, x, batch)
    rows = ~batch.preserved
    if omega == 0 or not rows.any():
        return target
    if appearance is None:
        raise ValueError("the motion objective needs the appearance prompt's embedding")
    with torch.no_grad(), activate(denoiser.module, {}):
        static = denoiser(x[rows], batch.sigma[rows], appearance.expand(int(rows.sum()), -1, -1)).float()
    target[rows] = (1 + omega) * target[rows] - omega * static
    return target


def motion_loss(
    predicted: Tensor, target: Tensor, batch: Batch, *, debiased: float, adjacent: float
) -> Tensor:
    """The squared error, plus two optional terms for rows that are not preserved ones; float32 (B,).

    debiased: weight of the squared error relative to an anchor frame, phi(y) = sqrt(2) y - y_anchor
        (MotionDirector, Zhao et al. 2023, with beta 1).
    adjacent: weight of 1 - cos between the frame-to-frame changes of prediction and target
        (Follow-Your-Motion, 2025).
    """
    error = predicted - target
    loss = mean_square(error)
    learned = (~batch.preserved).to(loss)
    if debiased:
        frames = (batch.anchor * error.shape[2]).long()
        anchor = error[torch.arange(len(error), device=error.device), :, frames].unsqueeze(2)
        # phi is linear: phi of the difference is the difference of phis
        loss = loss + debiased * learned * mean_square(2**0.5 * error - anchor)
    if adjacent and error.shape[2] > 1:
        changes, wanted = (y.diff(dim=2).transpose(1, 2).flatten(2) for y in (predicted, target))
        cosine = torch.nn.functional.cosine_similarity(changes, wanted, dim=2)
        loss = loss + adjacent * learned * (1 - cosine.mean(1))
    return loss


OBJECTIVES: dict[str, Callable[[Objective, Tensor | None], Criterion]] = {
    "velocity": velocity,
    "motion": motion,
}
"""By name: settings, and the embedding (1, L, D) of the appearance prompt, to the objective."""
