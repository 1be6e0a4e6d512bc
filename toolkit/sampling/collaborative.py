"""Spatial-temporal collaborative sampling (SCS; VideoMage, Algorithm 1) as a velocity function.

Two branches share the latents x. The subject branch has the LoRAs of the characters, the motion branch the
LoRA of the motion. At a guided step each branch gets its own copy of x, and a gradient step moves each copy
towards the attention maps of the other branch:

    L_m→s = mean (T_s(x_s) - sg T_m(x))²    T: temporal maps, the subjects learn when to move
    L_s→m = mean (S_m(x_m) - sg S_s(x))²    S: spatial maps, the motion learns where the subjects are
    x_b   = x - alpha_b dL_b/dx_b           both at once, from maps of the same x

Then each branch predicts at its own copy, and the results are averaged with shares that sum to 1:

    x' = Σ beta_b (x_b + (sigma' - sigma) v_b)

Algorithm 1 does not say where the step starts. This rule is the mean of the two branches' own Euler steps,
and it is the same whether the network predicts velocity, noise or clean latents. A step from x along averaged
noise would reverse the pull: its share in the next latents would be -(1 - sigma') / (1 - sigma).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.models.flow_matching import Velocity
from toolkit.sampling.collaborative_guides import Branch, Guide, Kind, Name, Pulls
from toolkit.sampling.settings import Collaboration


@dataclass(frozen=True)
class Report:
    """What one step did.

    Attributes:
        sigma: Its noise level.
        shares: Weight of each branch.
        losses: By branch, for each sample: the loss before the pull.
        etas: Length of the pull, relative to the latents' root mean square.
        alphas: Its step size.
        maps: Spatial maps (B, subjects, f, h, w), where they were read.
    """

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
"""(latents, sigma, next sigma, guided, alphas by branch, if fixed) to the next latents and a report."""


def collaborative_velocity(
    branches: Mapping[Name, Branch],
    sigmas: Tensor,
    settings: Collaboration,
    guide: Guide,
    report: Callable[[Report], object] | None = None,
) -> Velocity:
    """Both branches together as one velocity function, for one run of `denoise` along these sigmas.

    It is the velocity with which an Euler step ends where `collaborate` ends, so it contains the pulls. It
    must be followed by Euler steps: a multistep solver would extrapolate from latents that the pulls have
    moved since.

    report: Gets what each step did.
    """
    step, guided = collaborate(branches, settings, guide), guided_steps(sigmas, settings)
    levels = sigmas.tolist()
    alphas: dict[Name, Tensor] = {}

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        number = levels.index(float(sigma))
        if settings.alpha is not None and not alphas:
            alphas.update(_constant_alphas(settings.alpha, latents))
        total, done = step(latents, sigma, sigmas[number + 1], number in guided, alphas)
        # A step whose maps agree already gives an alpha of next to infinity: not to be kept.
        steep = all(loss > 0 for losses in done.losses.values() for loss in losses)
        if settings.freeze and not alphas and steep:
            alphas.update({name: latents.new_tensor(values) for name, values in done.alphas.items()})
        if report is not None:
            report(done)
        # In float64, because `denoise` multiplies by the small step again that this divides by.
        return (total.double() - latents.double()) / (sigmas[number + 1] - sigma).double()

    return velocity


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
