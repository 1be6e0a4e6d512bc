"""How two branches look at each other: what pulls their copies of the latents (VideoMage, Algorithm 1)."""

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

Kind = Literal["spatial", "temporal"]
Name = Literal["subject", "motion"]

Maps = dict[Kind, tuple[Tensor, ...]]
"""Maps (B, ...) by kind: of one kind several layers', or their mean alone."""

Read = Callable[[Tensor, Tensor, Collection[Kind]], Maps]
"""(latents, sigma, kinds) to maps, differentiable with respect to the latents."""


@dataclass(frozen=True)
class Branch:
    """One of the two networks: the base with its own adapters and its own prompt.

    Attributes:
        velocity: (latents, sigma) to velocity, guidance and adapters included.
        read: Its maps. It may stop as soon as it has them.
        active: A context for `read` and for the backward pass through it: a checkpointed block runs again in
            there and must meet the adapters of its first time.
    """

    velocity: Velocity
    read: Read
    active: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


@dataclass(frozen=True)
class Pull:
    """Which way a branch is pulled: gradient (B, C, f, h, w) of loss (B,) in its own copy of the latents."""

    gradient: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Pulls:
    """What a guide finds: the branches that are pulled, and what it computed on the way.

    velocities: of branches at the latents as they were; good for those that are not pulled.
    maps: spatial maps (B, subjects, f, h, w) of the branches, where they were read.
    """

    pulls: dict[Name, Pull]
    velocities: dict[Name, Tensor] = field(default_factory=dict)
    maps: dict[Name, Tensor] = field(default_factory=dict)


class Guide(Protocol):
    """How the branches look at each other: `attention_guide` or `difference_guide`."""

    def __call__(
        self, branches: Mapping[Name, Branch], latents: Tensor, sigma: Tensor, kinds: Collection[Kind]
    ) -> Pulls:
        """The pulls at these latents, (B, C, f, h, w); only those of the named kinds."""
        ...


def attention_guide(
    branches: Mapping[Name, Branch], latents: Tensor, sigma: Tensor, kinds: Collection[Kind]
) -> Pulls:
    """Pulls by attention maps, through the network (VideoMage, Alg. 1, lines 7 to 10).

    Each copy is differentiated alone, the other branch's maps are constants. Three short forward passes and
    two backward passes: the subject branch's one forward gives the map that is pulled and the map that the
    motion branch follows. No more than one graph is alive at a time, and of maps no more than one set with
    its target: temporal ones are large (six layers of Wan 2.1 1.3B at 81x480x832: 198 MB a set).
    """
    subject, motion = branches["subject"], branches["motion"]
    pulls: dict[Name, Pull] = {}
    maps: dict[Name, Tensor] = {}
    if "temporal" in kinds:
        when = _constants(motion, latents, sigma, "temporal")
        also: list[Kind] = ["spatial"] if "spatial" in kinds else []
        pulls["subject"], where = _pull(subject, latents, sigma, "temporal", when, also)
        del when
    else:
        where = _constants(subject, latents, sigma, "spatial")
    if where:
        pulls["motion"], seen = _pull(motion, latents, sigma, "spatial", where)
        maps = {"subject": where[0], "motion": seen[0]}
    return Pulls(pulls, maps=maps)


@torch.no_grad()
def difference_guide(
    branches: Mapping[Name, Branch], latents: Tensor, sigma: Tensor, kinds: Collection[Kind]
) -> Pulls:
    """scs-lite: pulls by how the predicted videos change from frame to frame, no backward pass.

    With clean latents x0_b = x - sigma sg(v_b) and D the difference of neighbouring frames,

        L_m→s = mean (D x0_s - D x0_m)²,   dL/dx_s = 2/n Dᵀ(D x0_s - D x0_m)

    in closed form, because the velocities are constants (after FlowMotion, which aligns differences of
    predicted clean latents). Only the subject branch is pulled: where the subjects are has no such short cut.

    Raises:
        CastmixError: there is one latent frame only.
    """
    if latents.shape[2] < 2:
        raise CastmixError(
            f"motion needs two latent frames or more, got latents {tuple(latents.shape)}: use more num_frames"
        )
    velocities: dict[Name, Tensor] = {
        name: branch.velocity(latents, sigma) for name, branch in branches.items()
    }
    if "temporal" not in kinds:
        return Pulls({}, velocities)
    apart = -sigma * (velocities["subject"] - velocities["motion"]).diff(dim=2)
    gradient = torch.zeros_like(latents)
    gradient[:, :, 1:] += apart
    gradient[:, :, :-1] -= apart
    loss = apart.square().flatten(1).mean(1)
    return Pulls({"subject": Pull(gradient * (2 / apart[0].numel()), loss)}, velocities)


GUIDES: dict[str, Guide] = {"scs": attention_guide, "scs-lite": difference_guide}


def _constants(branch: Branch, latents: Tensor, sigma: Tensor, kind: Kind) -> tuple[Tensor, ...]:
    with torch.no_grad(), branch.active():
        return branch.read(latents.detach(), sigma, [kind])[kind]


def _pull(
    branch: Branch,
    latents: Tensor,
    sigma: Tensor,
    kind: Kind,
    target: Sequence[Tensor],
    also: Collection[Kind] = (),
) -> tuple[Pull, tuple[Tensor, ...]]:
    """The pull of a branch's maps of one kind towards constants; the spatial maps that were read, detached.

    The loss is the mean over layers of each layer's mean: no copy of all layers together is made.
    """
    with torch.enable_grad(), branch.active():
        copy = latents.detach().clone().requires_grad_()
        maps = branch.read(copy, sigma, [kind, *also])
        losses = []
        for own, other in zip(maps[kind], target, strict=True):
            if own.shape != other.shape:
                raise CastmixError(
                    f"the {kind} maps of the two branches differ in shape, {tuple(own.shape)} and "
                    f"{tuple(other.shape)}: both prompts must name the same number of subjects"
                )
            losses.append(mse_loss(own, other, reduction="none").flatten(1).mean(1))
        loss = torch.stack(losses).mean(0)
        (gradient,) = torch.autograd.grad(loss.sum(), copy)  # each sample's own: samples do not mix
    return Pull(gradient, loss.detach()), tuple(one.detach() for one in maps.get("spatial", ()))
