"""Spatial-temporal collaborative sampling (SCS; VideoMage, Algorithm 1) over velocity functions.

Two branches share one latent x. The subject branch knows who, the motion branch how it is done. At a guided
step each gets its own copy of x, and each copy follows what the other branch sees:

    L_m→s = mean (T_s(x_s) - sg T_m(x))²    T: temporal maps, the subjects learn when to move
    L_s→m = mean (S_m(x_m) - sg S_s(x))²    S: spatial maps, the motion learns where the subjects are
    x_b   = x - alpha_b dL_b/dx_b           both at once, from maps of the same x

Then both predict at their own copies, and the step leaves from the mean of the copies, with shares that sum
to 1: x' = Σ beta_b (x_b + (sigma' - sigma) v_b). Algorithm 1 does not say from where to step; this is the
one rule that does not depend on what the network predicts (velocity, noise or clean latents), and the mean of
the two branches' own Euler steps. Stepping from x along averaged noise would turn the pull round: its share
in the next latents would be -(1 - sigma') / (1 - sigma).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.sampling.collaborative_guides import Branch, Guide, Kind, Name, Pulls
from toolkit.sampling.settings import Collaboration


@dataclass(frozen=True)
class Report:
    """What one step did. By branch, a number a sample: the loss before the pull, its size alpha, and eta, how
    far it moved the copy relative to the latents' own size."""

    sigma: float
    shares: dict[Name, float]
    losses: dict[Name, list[float]] = field(default_factory=dict)
    etas: dict[Name, list[float]] = field(default_factory=dict)
    alphas: dict[Name, list[float]] = field(default_factory=dict)
    maps: dict[Name, Tensor] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether anything was pulled."""
        return bool(self.losses)


Step = Callable[[Tensor, Tensor, Tensor, bool, Mapping[Name, Tensor]], tuple[Tensor, Report]]
"""(latents, sigma, next sigma, guided, alphas by branch or none) to the next latents and what happened."""


def sample_collaborative(
    branches: Mapping[Name, Branch],
    latents: Tensor,
    sigmas: Tensor,
    settings: Collaboration,
    guide: Guide,
    callback: Callable[[int, Tensor, Report], None] | None = None,
) -> Tensor:
    """Follow two branches from sigmas[0] to sigmas[-1] in Euler steps, guided inside the window.

    A multistep solver would extrapolate from latents that the guidance has moved since.

    latents: (B, C, f, h, w) at noise level sigmas[0]. callback(i, latents, report) after each step i.
    """
    step, guided = collaborate(branches, settings, guide), guided_steps(sigmas, settings)
    alphas = {} if settings.alpha is None else _constant_alphas(settings.alpha, latents)
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        latents, report = step(latents, sigma, following, i in guided, alphas)
        # not of a step that found maps alike already: dividing by next to nothing would be kept for good
        steep = all(loss > 0 for losses in report.losses.values() for loss in losses)
        if settings.freeze and not alphas and steep:
            alphas = {name: latents.new_tensor(values) for name, values in report.alphas.items()}
        if callback is not None:
            callback(i, latents, report)
    return latents


def collaborate(branches: Mapping[Name, Branch], settings: Collaboration, guide: Guide) -> Step:
    """One step of both branches together. Unguided it is an Euler step along their weighted velocity."""
    kinds: list[Kind] = [kind for kind in ("spatial", "temporal") if getattr(settings, kind)]

    @torch.no_grad()
    def step(
        latents: Tensor, sigma: Tensor, following: Tensor, guided: bool, alphas: Mapping[Name, Tensor]
    ) -> tuple[Tensor, Report]:
        found = guide(branches, latents, sigma, kinds) if guided and kinds else Pulls({})
        report = Report(float(sigma), shares(settings, float(sigma)), maps=found.maps)
        total = torch.zeros_like(latents)
        for name, share in report.shares.items():
            copy = latents
            if name in found.pulls:
                pull = found.pulls[name]
                copy, alpha, eta = pulled(latents, pull.gradient, settings.eta, alphas.get(name))
                report.losses[name] = pull.loss.tolist()
                report.alphas[name], report.etas[name] = alpha.tolist(), eta.tolist()
            if share == 0:
                continue
            known = None if name in found.pulls else found.velocities.get(name)
            velocity = branches[name].velocity(copy, sigma) if known is None else known
            total += share * (copy + (following - sigma) * velocity)
        return total, report

    return step


def pulled(
    latents: Tensor, gradient: Tensor, eta: float, alpha: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The latents after a step against the gradient, with its alpha and its eta (B,).

    Without alpha the step is normalised: it moves each sample by eta times its own RMS, so that one eta
    serves every resolution and every model. The gradient of a mean over maps shrinks with the number of
    sites, and an alpha found at one size means nothing at another.

    Raises:
        CastmixError: the gradient is not finite.
    """
    size, steepness = _rms(latents), _rms(gradient)
    if not bool(steepness.isfinite().all()):
        raise CastmixError(
            "the gradient of the maps is not finite: use a smaller eta, or sigma_window's upper end below 1"
        )
    if alpha is None:
        alpha = eta * size / (steepness + 1e-12)
    moved = latents - alpha.reshape(-1, *[1] * (latents.ndim - 1)) * gradient
    return moved, alpha, alpha * steepness / size


def guided_steps(sigmas: Tensor, settings: Collaboration) -> set[int]:
    """Which steps are guided: every `every`-th of those that begin inside the window, low < sigma <= high.

    A window of noise levels, not a number of steps: 15 of 50 steps of the paper's schedule end near 0.77,
    which on a grid with shift 3 is step 24.
    """
    low, high = settings.sigma_window
    inside = [i for i, sigma in enumerate(sigmas[:-1].tolist()) if low < sigma <= high]
    return set(inside[:: settings.every])


def shares(settings: Collaboration, sigma: float) -> dict[Name, float]:
    """The branches' shares at a noise level, linear between those at 1 and at 0, made to sum to 1."""
    betas: dict[Name, tuple[float, float]] = {
        "subject": settings.beta_subject,
        "motion": settings.beta_motion,
    }
    now: dict[Name, float] = {
        name: sigma * noisy + (1 - sigma) * clean for name, (noisy, clean) in betas.items()
    }
    total = sum(now.values())
    return {name: value / total for name, value in now.items()}


def _constant_alphas(alpha: float, latents: Tensor) -> dict[Name, Tensor]:
    return {
        "subject": latents.new_full((len(latents),), alpha),
        "motion": latents.new_full((len(latents),), alpha),
    }


def _rms(x: Tensor) -> Tensor:
    """Root of the mean square of each sample, (B,)."""
    return x.square().flatten(1).mean(1).sqrt()
