"""Gradients that pull each branch of collaborative sampling towards the other (VideoMage, Algorithm 1).

Two ways to compute them: from attention maps (`attention_gradients`, sampler scs) or from the predicted
videos (`difference_gradients`, sampler scs-lite).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from toolkit.core.errors import CastmixError
from toolkit.models.flow_matching import Velocity

MapKind = Literal["spatial", "temporal"]
BranchName = Literal["subject", "motion"]

Maps = dict[MapKind, tuple[Tensor, ...]]
"""Maps (B, ...) by kind: one tensor per layer, or one tensor that is the mean over layers."""

MapReader = Callable[[Tensor, Tensor, Collection[MapKind]], Maps]
"""(latents, sigma, kinds) → maps, differentiable with respect to the latents."""


@dataclass(frozen=True)
class Branch:
    """One of the two branches: the base model with adapters and a prompt of its own.

    Attributes:
        velocity: (latents, sigma) → velocity, guidance and adapters included.
        read_maps: Reads attention maps. It may stop the network after the last layer that is read.
        active: Makes a context with the branch's adapters for `read_maps` and its backward pass. Both need
            the same adapters, because a checkpointed block runs again in the backward pass.
    """

    velocity: Velocity
    read_maps: MapReader
    active: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(frozen=True)
class BranchGradient:
    """Gradient (B, C, f, h, w) of a loss (B,) with respect to a branch's copy of the latents."""

    gradient: Tensor
    loss: Tensor


@dataclass(frozen=True)
class BranchGradients:
    """The gradients of one step, and by-products.

    Attributes:
        gradients: By branch. A branch that is left out does not move.
        velocities: By branch, at the latents before they move.
        maps: Spatial maps (B, subjects, f, h, w) by branch, where they were read.
    """

    gradients: dict[BranchName, BranchGradient]
    velocities: dict[BranchName, Tensor] = field(default_factory=dict)
    maps: dict[BranchName, Tensor] = field(default_factory=dict)


class GradientFunction(Protocol):
    """Computes the gradients of a step: `attention_gradients` or `difference_gradients`."""

    def __call__(
        self,
        branches: Mapping[BranchName, Branch],
        latents: Tensor,
        sigma: Tensor,
        kinds: Collection[MapKind],
    ) -> BranchGradients:
        """The gradients at these latents (B, C, f, h, w), from maps of these kinds only."""
        ...


def attention_gradients(
    branches: Mapping[BranchName, Branch], latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]
) -> BranchGradients:
    """Gradients of the difference of the branches' attention maps (VideoMage, Alg. 1, lines 7 to 10).

    The other branch's maps are constants. This takes three forward passes, which stop after the last layer
    that is read, and two backward passes: one forward pass of the subject branch gives both its temporal maps
    and the spatial maps for the motion branch. At most one graph is alive at a time, and at most one set of
    maps with its target. Temporal maps are large: 198 MB for six layers of Wan 2.1 1.3B at 81x480x832.

    Raises:
        CastmixError: the maps of the branches differ in shape.
    """
    subject, motion = branches["subject"], branches["motion"]
    gradients: dict[BranchName, BranchGradient] = {}
    maps: dict[BranchName, Tensor] = {}
    if "temporal" in kinds:
        timing = _constant_maps(motion, latents, sigma, "temporal")
        also: list[MapKind] = ["spatial"] if "spatial" in kinds else []
        gradients["subject"], places = _map_gradient(subject, latents, sigma, "temporal", timing, also)
        del timing
    else:
        places = _constant_maps(subject, latents, sigma, "spatial")
    if places:
        gradients["motion"], of_motion = _map_gradient(motion, latents, sigma, "spatial", places)
        maps = {"subject": places[0], "motion": of_motion[0]}
    return BranchGradients(gradients, maps=maps)


@torch.no_grad()
def difference_gradients(
    branches: Mapping[BranchName, Branch], latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]
) -> BranchGradients:
    """scs-lite: gradients of the difference of the predicted videos' motion, without a backward pass.

    With predicted clean latents x0_b = x - sigma sg(v_b) and D the difference of neighbouring frames:

        L_m→s = mean (D x0_s - D x0_m)²,   dL/dx_s = 2/n Dᵀ(D x0_s - D x0_m)

    The velocities are constants, so the gradient has this closed form (after FlowMotion, which aligns
    differences of predicted clean latents). Only the subject branch moves. Places of subjects have no such
    closed form.

    Raises:
        CastmixError: the latents have one frame only.
    """
    if latents.shape[2] < 2:
        raise CastmixError(
            f"motion needs two latent frames or more, got latents {tuple(latents.shape)}: use more num_frames"
        )
    velocities: dict[BranchName, Tensor] = {
        name: branch.velocity(latents, sigma) for name, branch in branches.items()
    }
    if "temporal" not in kinds:
        return BranchGradients({}, velocities)
    difference = -sigma * (velocities["subject"] - velocities["motion"]).diff(dim=2)
    gradient = torch.zeros_like(latents)
    gradient[:, :, 1:] += difference
    gradient[:, :, :-1] -= difference
    loss = difference.square().flatten(1).mean(1)
    subject = BranchGradient(gradient * (2 / difference[0].numel()), loss)
    return BranchGradients({"subject": subject}, velocities)


GRADIENT_FUNCTIONS: dict[str, GradientFunction] = {
    "scs": attention_gradients,
    "scs-lite": difference_gradients,
}
"""By sampler."""


def _constant_maps(branch: Branch, latents: Tensor, sigma: Tensor, kind: MapKind) -> tuple[Tensor, ...]:
    """Maps of one kind without a graph."""
    with torch.no_grad(), branch.active():
        return branch.read_maps(latents.detach(), sigma, [kind])[kind]


def _map_gradient(
    branch: Branch,
    latents: Tensor,
    sigma: Tensor,
    kind: MapKind,
    target: Sequence[Tensor],
    also: Collection[MapKind] = (),
) -> tuple[BranchGradient, tuple[Tensor, ...]]:
    """The gradient of mean (maps - target)² for a branch's maps of one kind, and its spatial maps, detached.

    The loss is the mean over layers of each layer's mean, so the layers need no joint copy.

    also: A kind to read in the same forward pass.
    """
    with torch.enable_grad(), branch.active():
        copy = latents.detach().clone().requires_grad_()
        maps = branch.read_maps(copy, sigma, [kind, *also])
        losses = []
        for own, other in zip(maps[kind], target, strict=True):
            if own.shape != other.shape:
                raise CastmixError(
                    f"the {kind} maps of the two branches differ in shape, {tuple(own.shape)} and "
                    f"{tuple(other.shape)}: both prompts must name the same number of subjects"
                )
            losses.append(mse_loss(own, other, reduction="none").flatten(1).mean(1))
        loss = torch.stack(losses).mean(0)
        (gradient,) = torch.autograd.grad(loss.sum(), copy)  # samples are independent
    return BranchGradient(gradient, loss.detach()), tuple(layer.detach() for layer in maps.get("spatial", ()))
