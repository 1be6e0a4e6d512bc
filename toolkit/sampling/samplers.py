"""The velocity function for a request: guidance around the network, then LoRAs, then collaboration.

`velocity_of` chooses it. `denoise` then follows it from noise to latents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.lora.layers import activate
from toolkit.lora.loading import LoraSet
from toolkit.lora.parts import Part
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser
from toolkit.sampling.collaborative import StepReport, collaborative_velocity
from toolkit.sampling.collaborative_branches import BranchPrompt, make_branch
from toolkit.sampling.collaborative_gradients import GRADIENT_FUNCTIONS, Branch, BranchName
from toolkit.sampling.denoise import guided_velocity
from toolkit.sampling.masked_layout import base_layout_velocity
from toolkit.sampling.masked_loras import confine, find_shares
from toolkit.sampling.prompt_encoding import EncodedPrompts
from toolkit.sampling.request import Request

Active = Callable[[], AbstractContextManager[None]]
"""Makes a context in which certain adapters are active, each in the region where it should act."""


@dataclass(frozen=True, eq=False)
class Network:
    """A denoiser, the LoRAs attached to it, and the settings of the call."""

    denoiser: Denoiser
    loras: LoraSet
    request: Request


def velocity_of(
    network: Network,
    prompts: EncodedPrompts,
    noise: Tensor,
    sigmas: Tensor,
    report: Callable[[StepReport], object] | None = None,
) -> Velocity:
    """The velocity function of a batch, for one run of `denoise` from this noise along these sigmas.

    Args:
        network: The denoiser with its LoRAs attached.
        prompts: The B prompts of the batch.
        noise: (B, C, f, h, w), where sampling starts. A masked fusion finds its masks from there.
        sigmas: The schedule.
        report: Gets the report of each step of collaborative sampling.
    """
    denoiser, request = network.denoiser, network.request
    guided = functools.partial(
        guided_velocity,
        denoiser,
        negative_embeds=prompts.negative,
        guidance_scale=request.numbers.guidance_scale,
    )
    if request.sampling.sampler != "euler":
        branches = _branches(network, prompts, noise, sigmas, guided)
        gradients_of = GRADIENT_FUNCTIONS[request.sampling.sampler]
        return collaborative_velocity(branches, sigmas, request.collaboration, gradients_of, report)
    if prompts.plain is not None:
        return base_layout_velocity(
            denoiser,
            guided,
            prompts.embeds,
            prompts.plain,
            weights={part.name: part.weight for part in network.loras.parts},
            adapters=network.loras.confined,
            settings=request.masked,
        )
    velocity = guided(prompts.embeds)
    active = adapters_in_place(network, network.loras.parts, velocity, prompts, noise, sigmas)
    return with_adapters(active, velocity)


def with_adapters(active: Active, velocity: Velocity) -> Velocity:
    """The same velocity function, called with these adapters active."""

    def velocity_with_adapters(latents: Tensor, sigma: Tensor) -> Tensor:
        with active():
            return velocity(latents, sigma)

    return velocity_with_adapters


def adapters_in_place(
    network: Network,
    parts: Sequence[Part],
    velocity: Velocity,
    prompts: EncodedPrompts,
    latents: Tensor,
    sigmas: Tensor,
) -> Active:
    """Makes contexts in which these adapters are active, each in the region where it should act.

    The parts of a masked fusion act where their subjects are. To find these regions, the plain sum of all
    adapters runs a few steps from `latents` at noise level sigmas[0]; see `masked_loras.find_shares`.
    """
    module, weights = network.denoiser.module, {part.name: part.weight for part in parts}
    confined = [part.name for part in parts if part.subjects]
    if not confined:
        return functools.partial(activate, module, weights)
    with activate(module, weights):
        shares = find_shares(
            network.denoiser,
            velocity,
            prompts.subjects,
            prompts.embeds.to(latents.device),
            adapters=confined,
            latents=latents,
            sigmas=sigmas,
            settings=network.request.masked,
        )
    return functools.partial(confine, network.denoiser, weights, confined, shares)


def _branches(
    network: Network,
    prompts: EncodedPrompts,
    noise: Tensor,
    sigmas: Tensor,
    guided: Callable[[Tensor], Velocity],
) -> Mapping[BranchName, Branch]:
    """The subject and the motion branch of collaborative sampling."""
    branches: dict[BranchName, Branch] = {}
    names: tuple[BranchName, ...] = ("subject", "motion")
    for name in names:
        rows = [row[name] for row in prompts.branches]
        # A batch of several prompts reads no maps (see `check_batch`), so it needs no spans.
        prompt = rows[0] if len(rows) == 1 else BranchPrompt(torch.cat([row.embeds for row in rows]))
        velocity = guided(prompt.embeds)
        active = adapters_in_place(network, network.loras.of_role(name), velocity, prompts, noise, sigmas)
        branches[name] = make_branch(
            network.denoiser, prompt, velocity, active, network.request.collaboration
        )
    return branches


def log_lines(reports: Sequence[StepReport], sample: int) -> list[dict[str, Any]]:
    """The reports for one sample of a batch as JSON objects, one per step, for NAME.steps.jsonl."""
    lines: list[dict[str, Any]] = []
    for i, report in enumerate(reports):
        line: dict[str, Any] = {"step": i, "sigma": round(report.sigma, 6), "guided": report.guided}
        for name, share in report.shares.items():
            line[name] = {"share": round(share, 6)}
            if name in report.losses:
                line[name] |= {
                    "loss": report.losses[name][sample],
                    "eta": report.etas[name][sample],
                    "alpha": report.alphas[name][sample],
                }
        lines.append(line)
    return lines


def kept_maps(reports: Sequence[StepReport], sample: int) -> dict[str, Tensor]:
    """Spatial maps (subjects, f, h, w) of one sample's guided steps, by "step.branch", in half precision."""
    return {
        f"{i:03d}.{name}": maps[sample].half().cpu()
        for i, report in enumerate(reports)
        for name, maps in report.maps.items()
    }
