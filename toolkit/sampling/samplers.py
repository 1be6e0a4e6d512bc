"""From prompts, LoRAs by role and noise to latents: one sum of LoRAs, or two branches that collaborate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from toolkit.lora.layers import activate
from toolkit.lora.loading import Member
from toolkit.models.flow_matching import Velocity, sample_euler
from toolkit.models.interfaces import Denoiser
from toolkit.sampling.collaborative import Report, sample_collaborative
from toolkit.sampling.collaborative_branches import (
    Prompted,
    new_branch,
)
from toolkit.sampling.collaborative_guides import GUIDES, Branch, Name
from toolkit.sampling.denoise import guided_velocity
from toolkit.sampling.masked_layout import Plain, laid_out
from toolkit.sampling.masked_loras import confine, find_shares
from toolkit.sampling.prompt_encoding import Scripts
from toolkit.sampling.settings import Collaboration, Masked


def draw(
    denoiser: Denoiser,
    script: Scripts,
    rows: range,
    noise: Tensor,
    sigmas: Tensor,
    members: Sequence[Member],
    *,
    guidance_scale: float,
    sampler: str,
    collaboration: Collaboration,
    masked: Masked,
    callback: Callable[[int, Report | None], None],
) -> Tensor:
    """Latents (B, C, f, h, w) of some prompts, float32 on the CPU.

    rows: which prompts. noise: like the latents. sampler: "euler" sums all LoRAs; "scs" and "scs-lite" give
    each branch those of its role, and both those of role "lora".
    callback(i, report) after each step, with a report if it is of two branches.
    """
    noise, sigmas = noise.to(denoiser.device), sigmas.to(denoiser.device)
    if sampler == "euler":
        embeds = script.prompts[rows.start : rows.stop]
        if script.plain is not None:
            part = Plain(
                script.plain.embeds[rows.start : rows.stop], script.plain.named[rows.start : rows.stop]
            )
            weights = {one.name: one.weight for one in members}
            apart = [one.name for one in members if one.subjects]
            follow = laid_out(
                denoiser,
                lambda prompts: guided_velocity(denoiser, prompts, script.negative, guidance_scale),
                embeds,
                part,
                weights=weights,
                adapters=apart,
                settings=masked,
            )
            with torch.no_grad():
                return sample_euler(follow, noise, sigmas, lambda i, latents: callback(i, None)).cpu()
        velocity = guided_velocity(denoiser, embeds, script.negative, guidance_scale)
        together = worn(denoiser, members, velocity, script, rows, noise, sigmas, masked)
        with torch.no_grad(), together():
            return sample_euler(velocity, noise, sigmas, lambda i, latents: callback(i, None)).cpu()
    branches: dict[Name, Branch] = {}
    names: tuple[Name, ...] = ("subject", "motion")
    for name in names:
        own = [script.branches[row][name] for row in rows]
        # several prompts at a time only without maps, where spans and lengths do not matter
        prompted = own[0] if len(own) == 1 else Prompted(torch.cat([one.embeds for one in own]))
        velocity = guided_velocity(denoiser, prompted.embeds, script.negative, guidance_scale)
        mine = [one for one in members if one.role in ("lora", name)]
        active = worn(denoiser, mine, velocity, script, rows, noise, sigmas, masked)
        branches[name] = new_branch(denoiser, prompted, velocity, active, collaboration)
    return sample_collaborative(
        branches,
        noise,
        sigmas,
        collaboration,
        GUIDES[sampler],
        lambda i, latents, report: callback(i, report),
    ).cpu()


def worn(
    denoiser: Denoiser,
    members: Sequence[Member],
    velocity: Velocity,
    script: Scripts,
    rows: range,
    noise: Tensor,
    sigmas: Tensor,
    masked: Masked,
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the network has these adapters, each where it is to act.

    If some act only where their subjects are, a few steps of the plain sum are run to see where that is.
    """
    module, weights = denoiser.module, {one.name: one.weight for one in members}
    apart = [one.name for one in members if one.subjects]
    if not apart:
        return functools.partial(activate, module, weights)
    with activate(module, weights):
        found = find_shares(
            denoiser,
            velocity,
            script.named[rows.start : rows.stop],
            script.prompts[rows.start : rows.stop].to(noise.device),
            adapters=apart,
            latents=noise,
            sigmas=sigmas,
            settings=masked,
        )
    return functools.partial(confine, denoiser, weights, apart, found)


def log_lines(reports: Sequence[Report], sample: int) -> list[dict[str, Any]]:
    """What the steps did to one sample of a batch, a mapping each, for a file of lines."""
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


def kept_maps(reports: Sequence[Report], sample: int) -> dict[str, Tensor]:
    """Spatial maps (subjects, f, h, w) of one sample's guided steps, by "step.branch", in half precision."""
    return {
        f"{i:03d}.{name}": maps[sample].half().cpu()
        for i, report in enumerate(reports)
        for name, maps in report.maps.items()
    }
