"""Spatial-temporal collaborative sampling (SCS; VideoMage, Algorithm 1) as a velocity function.

Two branches share the latents x. The subject branch has the LoRAs of the characters, the motion branch the
LoRA of the motion. At a guided step each branch gets its own copy of x, and a gradient step moves each copy
towards the attention maps of the other branch:

    L_m→s = mean (T_s(x_s) - sg T_m(x))²    T: temporal maps; subjects take over the timing
    L_s→m = mean (S_m(x_m) - sg S_s(x))²    S: spatial maps; motion takes over the places
    x_b   = x - alpha_b dL_b/dx_b           both from maps of the same x; sg: constant

Then each branch predicts at its own copy, and the results are averaged with shares that sum to 1:

    x' = Σ beta_b (x_b + (sigma' - sigma) v_b)

Algorithm 1 does not say where the step starts. This rule is the mean of the two branches' own Euler steps,
and it is the same whether the network predicts velocity, noise or clean latents. A step from x along averaged
noise would reverse the gradient step: its share in the next latents would be -(1 - sigma') / (1 - sigma).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.models.flow_matching import Velocity
from toolkit.sampling.collaborative_gradients import (
    Branch,
    BranchGradients,
    BranchName,
    GradientFunction,
    MapKind,
)
from toolkit.sampling.settings import Collaboration


@dataclass(frozen=True)
class StepReport:
    """What one sampling step did. Lists have one value per sample.

    Attributes:
        sigma: Noise level of the step.
        shares: Share of each branch in the result.
        losses: By branch, the loss before the gradient step.
        etas: By branch, the length of the gradient step relative to the latents' root mean square.
        alphas: By branch, the step size.
        maps: By branch, spatial maps (B, subjects, f, h, w), where they were read.
    """

    sigma: float
    shares: dict[BranchName, float]
    losses: dict[BranchName, list[float]] = field(default_factory=dict)
    etas: dict[BranchName, list[float]] = field(default_factory=dict)
    alphas: dict[BranchName, list[float]] = field(default_factory=dict)
    maps: dict[BranchName, Tensor] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether a gradient step was made."""
        return bool(self.losses)


Step = Callable[[Tensor, Tensor, Tensor, bool, Mapping[BranchName, Tensor]], tuple[Tensor, StepReport]]
"""(latents, sigma, next sigma, guided, fixed alphas by branch) → the next latents and a report."""


def collaborative_velocity(
    branches: Mapping[BranchName, Branch],
    sigmas: Tensor,
    settings: Collaboration,
    gradients_of: GradientFunction,
    report: Callable[[StepReport], object] | None = None,
) -> Velocity:
    """Both branches as one velocity function, for one run of `denoise` along these sigmas.

    An Euler step along it ends where `collaborative_step` ends, so it contains the gradient steps. Do not use
    it with a multistep solver, which would extrapolate from latents that have been moved since.

    Args:
        branches: The subject and the motion branch.
        sigmas: The schedule.
        settings: Of collaborative sampling.
        gradients_of: Computes the gradients of a guided step.
        report: Gets the report of each step.
    """
    step, guided = collaborative_step(branches, settings, gradients_of), guided_steps(sigmas, settings)
    levels = sigmas.tolist()
    alphas: dict[BranchName, Tensor] = {}

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        number = levels.index(float(sigma))
        if settings.alpha is not None and not alphas:
            alphas.update(_constant_alphas(settings.alpha, latents))
        total, done = step(latents, sigma, sigmas[number + 1], number in guided, alphas)
        # Maps that agree already have no gradient, so alpha is nearly infinite and must not be kept.
        differ = all(loss > 0 for losses in done.losses.values() for loss in losses)
        if settings.freeze and not alphas and differ:
            alphas.update({name: latents.new_tensor(values) for name, values in done.alphas.items()})
        if report is not None:
            report(done)
        # In float64: this divides by a small difference of sigmas, and `denoise` multiplies by it again.
        return (total.double() - latents.double()) / (sigmas[number + 1] - sigma).double()

    return velocity


def collaborative_step(
    branches: Mapping[BranchName, Branch], settings: Collaboration, gradients_of: GradientFunction
) -> Step:
    """Make the function for one step of both branches.

    An unguided step is an Euler step along the weighted mean of the branches' velocities.
    """
    kinds: list[MapKind] = [kind for kind in ("spatial", "temporal") if getattr(settings, kind)]

    @torch.no_grad()
    def step(
        latents: Tensor, sigma: Tensor, following: Tensor, guided: bool, alphas: Mapping[BranchName, Tensor]
    ) -> tuple[Tensor, StepReport]:
        found = gradients_of(branches, latents, sigma, kinds) if guided and kinds else BranchGradients({})
        report = StepReport(float(sigma), branch_shares(settings, float(sigma)), maps=found.maps)
        total = torch.zeros_like(latents)
        for name, share in report.shares.items():
            copy = latents
            if name in found.gradients:
                branch = found.gradients[name]
                copy, alpha, eta = moved_against(latents, branch.gradient, settings.eta, alphas.get(name))
                report.losses[name] = branch.loss.tolist()
                report.alphas[name], report.etas[name] = alpha.tolist(), eta.tolist()
            if share == 0:
                continue
            # a velocity from before the gradient step serves only a branch that has not moved
            known = None if name in found.gradients else found.velocities.get(name)
            velocity = branches[name].velocity(copy, sigma) if known is None else known
            total += share * (copy + (following - sigma) * velocity)
        return total, report

    return step


def moved_against(
    latents: Tensor, gradient: Tensor, eta: float, alpha: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a gradient step.

    Without alpha the step is normalised: each sample moves by eta times its own root mean square. So one eta
    fits every resolution and model. An alpha does not: the gradient of a mean over maps shrinks with the
    number of sites.

    Args:
        latents: (B, C, f, h, w).
        gradient: (B, C, f, h, w).
        eta: Relative length of the step, if alpha is None.
        alpha: Step size of each sample, (B,).

    Returns:
        The new latents, and the alpha (B,) and eta (B,) of the step.

    Raises:
        CastmixError: the gradient is not finite.
    """
    size, slope = _rms(latents), _rms(gradient)
    if not bool(slope.isfinite().all()):
        raise CastmixError(
            "the gradient of the maps is not finite: use a smaller eta, or a sigma_window that ends below 1"
        )
    if alpha is None:
        alpha = eta * size / (slope + 1e-12)
    moved = latents - alpha.reshape(-1, *[1] * (latents.ndim - 1)) * gradient
    return moved, alpha, alpha * slope / size


def guided_steps(sigmas: Tensor, settings: Collaboration) -> set[int]:
    """Numbers of the guided steps: every `every`-th of those that start at low < sigma <= high.

    The window is in noise levels, because the same level is another step in another schedule. The paper
    guides 15 of 50 steps, which end near 0.77; with shift 3 that level is at step 24.
    """
    low, high = settings.sigma_window
    inside = [i for i, sigma in enumerate(sigmas[:-1].tolist()) if low < sigma <= high]
    return set(inside[:: settings.every])


def branch_shares(settings: Collaboration, sigma: float) -> dict[BranchName, float]:
    """The branches' shares at a noise level: linear between those at 1 and at 0, scaled to sum to 1."""
    betas: dict[BranchName, tuple[float, float]] = {
        "subject": settings.beta_subject,
        "motion": settings.beta_motion,
    }
    weights: dict[BranchName, float] = {
        name: sigma * noisy + (1 - sigma) * clean for name, (noisy, clean) in betas.items()
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _constant_alphas(alpha: float, latents: Tensor) -> dict[BranchName, Tensor]:
    return {
        "subject": latents.new_full((len(latents),), alpha),
        "motion": latents.new_full((len(latents),), alpha),
    }


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return x.square().flatten(1).mean(1).sqrt()
