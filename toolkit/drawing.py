"""From prompts, LoRAs by role and noise to latents: one sum of LoRAs, or two branches that collaborate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from toolkit.adapters import activate
from toolkit.branches import Prompted, for_motion, for_subjects, new_branch, subjects_of
from toolkit.captions import TAG
from toolkit.cast import Cast
from toolkit.collaborate import Report, sample_collaborative
from toolkit.errors import CastmixError
from toolkit.flow import Velocity, sample_euler
from toolkit.fusion.knobs import Masked
from toolkit.fusion.layout import Plain, laid_out
from toolkit.fusion.masked import Named, confine, find_shares, read_prompt
from toolkit.guides import GUIDES, Branch, Name
from toolkit.lora import Lora
from toolkit.models import Denoiser, Encoders
from toolkit.progress import say
from toolkit.roles import Member
from toolkit.sampling import guided_velocity
from toolkit.settings import Collaboration
from toolkit.tokens import apply, nouns, plain, read_tokens, written


@dataclass(frozen=True, eq=False)
class Scripts:
    """What is drawn, encoded.

    prompts: (n, L, D). negative: (1, L, D). named: whom each prompt names, if some adapters act only where
    somebody is. plain: the prompts in plain words, if the base is to lay out where that is. For two branches
    besides: what either reads of each prompt, the motion branch's prompts in words, and the subjects that
    both name.
    """

    prompts: Tensor
    negative: Tensor
    named: tuple[Named, ...] = ()
    plain: Plain | None = None
    branches: tuple[Mapping[Name, Prompted], ...] = ()
    motion_prompts: tuple[str, ...] = ()
    subjects: tuple[tuple[str, ...], ...] = ()


def write_script(
    encoders: Encoders,
    prompts: Sequence[str],
    negative_prompt: str,
    loras: Sequence[Lora],
    members: Sequence[Member],
) -> Scripts:
    """Encode prompts, which may hold special tokens of the LoRAs; see which subjects of members they name."""
    embeds = apply(encoders, [*prompts, negative_prompt], loras)
    apart = {one.name: one.subjects for one in members if one.subjects}
    tokens = read_tokens(loras)
    named = tuple(read_prompt(encoders, prompt, apart, tokens) for prompt in prompts if apart)
    return Scripts(embeds[:-1], embeds[-1:], named)


def write_plain(
    encoders: Encoders,
    prompts: Sequence[str],
    loras: Sequence[Lora],
    members: Sequence[Member],
    *,
    words: Mapping[str, str],
    cast: Cast,
) -> Plain:
    """The prompts for the base, which lays out a masked fusion, and where they name whom.

    Raises:
        CastmixError: a subject has no noun, or its noun is not in the plain prompt.
    """
    known = {**nouns(loras, cast), **words}
    tokens = written(loras)
    owner = {subject: one.name for one in members for subject in one.subjects}
    texts = [plain(prompt, known) for prompt in prompts]
    embeds = apply(encoders, texts, loras)
    found: list[Named] = []
    for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        subjects = [subject for subject in subjects_of(prompt, known) if subject in owner]
        if strange := [subject for subject in subjects if subject not in known]:
            raise CastmixError(
                f"--masked.layout base needs a noun for {', '.join(strange)}: say --words {strange[0]}=cat"
            )
        read = for_motion(encoders, text, embeds[i : i + 1], subjects, known, tokens)
        found.append(Named(read.spans, tuple(owner[subject] for subject in subjects), read.real))
    return Plain(embeds, tuple(found))


def write_scripts(
    encoders: Encoders,
    prompts: Sequence[str],
    negative_prompt: str,
    loras: Sequence[Lora],
    members: Sequence[Member],
    *,
    motion_prompts: Sequence[str],
    words: Mapping[str, str],
    cast: Cast,
    spatial: bool,
) -> Scripts:
    """Encode prompts for both branches, and find in each where the subjects are named.

    motion_prompts: One for each prompt; left out, the prompt in words that the base model knows. words: what
    the motion branch calls a subject; they go before what LoRAs and cast say. spatial: are subjects needed?

    Raises:
        CastmixError: a prompt names no subject, or its motion prompt does not name it.
    """
    known = {**nouns(loras, cast), **words}
    if not motion_prompts:
        motion_prompts = [plain(prompt, known) for prompt in prompts]
        strange = {name for prompt in motion_prompts for name in TAG.findall(prompt) if name not in known}
        if strange:  # one without a noun keeps the whole prompt as it is: half in prose it would be nothing
            say(
                f"the motion branch gets prompts with names: castmix knows no noun for "
                f"{', '.join(sorted(strange))}. Say one, --words {min(strange)}=cat, or give --motion-prompt"
            )
    script = write_script(encoders, prompts, negative_prompt, loras, members)
    embeds = apply(encoders, motion_prompts, loras)
    tokens = written(loras)
    branches: list[Mapping[Name, Prompted]] = []
    named: list[tuple[str, ...]] = []
    for i, (prompt, other) in enumerate(zip(prompts, motion_prompts, strict=True)):
        subjects = subjects_of(prompt, known) if spatial else []
        if spatial and not subjects:
            raise CastmixError(
                f"{prompt!r} names no subject for the motion branch to find: use [Character: <name>], give "
                "--words NAME=NOUN, or --collaboration.no-spatial"
            )
        branches.append(
            {
                "subject": for_subjects(encoders, prompt, script.prompts[i : i + 1], subjects, tokens),
                "motion": for_motion(encoders, other, embeds[i : i + 1], subjects, known, tokens),
            }
        )
        named.append(tuple(subjects))
    return replace(
        script, branches=tuple(branches), motion_prompts=tuple(motion_prompts), subjects=tuple(named)
    )


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
