"""What a training step minimises. To add one: a function like `velocity` and a line in OBJECTIVES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.lora.layers import activate
from toolkit.models.flow_matching import interpolate, velocity_target
from toolkit.models.interfaces import Denoiser
from toolkit.training.batches import Batch
from toolkit.training.settings import Motion


@dataclass(frozen=True)
class Aim:
    """What an objective goes by beside the rows: its knobs, and the appearance prompt embedded, (1, L, D)."""

    motion: Motion = field(default_factory=Motion)
    appearance: Tensor | None = None


Objective = Callable[[Denoiser, Batch, Aim], Tensor]


def velocity_loss(
    denoiser: Denoiser, latents: Tensor, prompt_embeds: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Squared error of the predicted velocity, averaged over each sample (Lipman et al. 2023); float32 (B,).

    latents, noise: (B, C, f, h, w). prompt_embeds: (B, L, D). sigma: (B,), in [0, 1].
    """
    predicted = denoiser(interpolate(latents, noise, sigma), sigma, prompt_embeds)
    error = predicted.float() - velocity_target(latents, noise).float()
    return error.square().flatten(1).mean(1)


def velocity(denoiser: Denoiser, batch: Batch, aim: Aim | None = None) -> Tensor:
    """`velocity_loss` of every row, (B,): plain training."""
    return velocity_loss(denoiser, batch.latents, batch.prompt_embeds, batch.sigma, batch.noise)


def motion(denoiser: Denoiser, batch: Batch, aim: Aim) -> Tensor:
    """The error from a target that the clip's looks are taken out of; float32 (B,).

    VideoMage, section 3.3, in velocities: the target is (1 + omega) v - omega v_theta(x, sigma, c_ap), with v
    the true velocity and v_theta the base (all adapters off) at the same point under the appearance prompt.
    Substituting eps = x + (1 - sigma) v in the paper's eps_free makes x cancel, so only the weight of the
    noise levels differs from the paper's: an eps-loss would weigh them by (1 - sigma)^2, and suppress just
    those at which motion is decided. Rows of the base's world keep their true target.

    `aim.motion` may add, to each row of the clip: `debiased` times the same error relative to an anchor
    frame, phi(y) = sqrt(2) y - y_anchor (MotionDirector, Zhao et al. 2023, with beta 1); and `adjacent` times
    1 - cos between what changes from frame to frame in prediction and target (Follow-Your-Motion, 2025).
    """
    x = interpolate(batch.latents, batch.noise, batch.sigma)
    target = motion_target(denoiser, x, batch, aim)
    predicted = denoiser(x, batch.sigma, batch.prompt_embeds).float()
    error = predicted - target
    loss = error.square().flatten(1).mean(1)
    own, knobs = (~batch.kept).to(loss), aim.motion
    if knobs.debiased:
        frames = (batch.anchor * error.shape[2]).long()
        anchor = error[torch.arange(len(error), device=error.device), :, frames].unsqueeze(2)
        # phi is linear: phi of the difference is the difference of phis
        loss = loss + knobs.debiased * own * (2**0.5 * error - anchor).square().flatten(1).mean(1)
    if knobs.adjacent and error.shape[2] > 1:
        changes, wanted = (y.diff(dim=2).transpose(1, 2).flatten(2) for y in (predicted, target))
        cosine = torch.nn.functional.cosine_similarity(changes, wanted, dim=2)
        loss = loss + knobs.adjacent * own * (1 - cosine.mean(1))
    return loss


def motion_target(denoiser: Denoiser, x: Tensor, batch: Batch, aim: Aim) -> Tensor:
    """The target of `motion`, float32 (B, C, f, h, w), without gradient. x: the rows at their noise levels.

    Raises:
        ValueError: omega is not 0 and there is no appearance prompt: a mistake in castmix.
    """
    target = velocity_target(batch.latents, batch.noise).float()
    omega, rows = aim.motion.omega, ~batch.kept
    if omega == 0 or not rows.any():
        return target
    if aim.appearance is None:
        raise ValueError("the motion objective needs the appearance prompt's embedding")
    with torch.no_grad(), activate(denoiser.module, {}):
        static = denoiser(x[rows], batch.sigma[rows], aim.appearance.expand(int(rows.sum()), -1, -1)).float()
    target[rows] = (1 + omega) * target[rows] - omega * static
    return target


OBJECTIVES: dict[str, Objective] = {"velocity": velocity, "motion": motion}
