"""A denoiser with adapters and a prompt as a branch of collaborative sampling."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.map_reading import every_second_site, map_layers, tap_reader, token_grid
from toolkit.attention.maps import normalised
from toolkit.captions.grammar import TAG
from toolkit.captions.whole_words import find_phrase
from toolkit.core.errors import CastmixError
from toolkit.lora.special_tokens import subject_spans, substitute
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser, Encoders
from toolkit.sampling.collaborative_guides import Branch, Kind, Maps, Read
from toolkit.sampling.settings import Collaboration

Span = tuple[int, ...]
"""Positions of tokens."""


@dataclass(frozen=True, eq=False)
class BranchPrompt:
    """A prompt as a branch reads it.

    embeds: (1 or B, L, D), of which the first `real` positions are no pads. spans: where each subject is
    named, in one order for both branches; without them there are no spatial maps.
    """

    embeds: Tensor
    spans: tuple[Span, ...] = ()
    real: int = 0


def new_branch(
    denoiser: Denoiser,
    prompt: BranchPrompt,
    velocity: Velocity,
    active: Callable[[], AbstractContextManager[None]],
    settings: Collaboration,
) -> Branch:
    """A branch of the network inside `active`, which holds its adapters; its velocity needs none of its own.

    Maps are read from the prompted half of guidance alone, and the network runs no further than the last
    block that is read.
    """
    checkpointing = settings.checkpointing
    if checkpointing is None:
        checkpointing = denoiser.device.type != "cpu"

    def follow(latents: Tensor, sigma: Tensor) -> Tensor:
        with active():
            return velocity(latents, sigma)

    return Branch(follow, map_reader(denoiser, prompt, settings.window, checkpointing), active)


def map_reader(denoiser: Denoiser, prompt: BranchPrompt, window: int, checkpointing: bool) -> Read:
    """A branch's maps: spatial (B, subjects, f, h, w), normalised; temporal (B, heads, S, f, …) by layer.

    With a window every second place of every second row is looked at: maps grow by the window's square.
    """
    module: Any = denoiser.module
    layers, embeds = map_layers(module.config.num_layers), prompt.embeds.to(denoiser.device)

    def read(latents: Tensor, sigma: Tensor, kinds: Collection[Kind]) -> Maps:
        cross = layers.cross if "spatial" in kinds else ()
        temporal = layers.temporal if "temporal" in kinds else ()
        if cross and not prompt.spans:
            raise CastmixError("no subject is named in the prompt, so there are no spatial maps of any")
        grid = token_grid(denoiser, latents)
        sites = every_second_site(grid) if window else None
        look = tap_reader(grid, spans=prompt.spans, real=prompt.real, sites=sites, window=window)
        last = max(*cross, *temporal)
        with (
            checkpointed(module, checkpointing),
            denoiser.tap(cross=cross, temporal=temporal, stop_after=last, read=look) as taps,
        ):
            denoiser(latents, sigma, embeds.expand(len(latents), -1, -1))
        maps: Maps = {}
        if cross:
            mean = torch.stack([taps.maps["cross", layer] for layer in cross]).mean(0)
            maps["spatial"] = (normalised(mean),)
        if temporal:
            maps["temporal"] = tuple(taps.maps["temporal", layer] for layer in temporal)
        return maps

    return read


@contextlib.contextmanager
def checkpointed(module: Any, on: bool) -> Iterator[None]:
    """Forward passes in here keep only block inputs for their backward pass; then it is as it was before."""
    before = module.gradient_checkpointing
    if on and not before:
        module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if on and not before:
            module.disable_gradient_checkpointing()


def subjects_of(prompt: str, words: Mapping[str, str]) -> list[str]:
    """By what a prompt names its subjects, each once, in its order: tags, and whatever `words` knows."""
    named = {name: find_phrase(prompt, name) for name in [*TAG.findall(prompt), *words]}
    return sorted((name for name, place in named.items() if place >= 0), key=lambda name: named[name])


def subject_branch_prompt(
    encoders: Encoders, prompt: str, embeds: Tensor, subjects: Sequence[str], tokens: Mapping[str, str]
) -> BranchPrompt:
    """The subject branch's prompt and its subjects. A special token is where its class noun was encoded:
    `tokens` are the nouns of the LoRA files, whatever the motion branch calls it."""
    found, real = subject_spans(encoders, prompt, subjects, tokens)
    return BranchPrompt(embeds, tuple(found), real)


def motion_branch_prompt(
    encoders: Encoders,
    prompt: str,
    embeds: Tensor,
    subjects: Sequence[str],
    words: Mapping[str, str],
    tokens: Mapping[str, str] = {},
) -> BranchPrompt:
    """The motion branch's prompt and the same subjects: by their class nouns, or as the other prompt says.

    Special tokens of the prompt stand where their nouns do, `tokens`. Several subjects of one noun ("a cat
    chases a cat") are told apart by their order.

    Raises:
        CastmixError: a subject is not named, or one noun stands there more or less often than its subjects.
    """
    from toolkit.models.wan import clean_prompt

    text, _ = substitute(clean_prompt(prompt), tokens)
    nouns = []
    for subject in subjects:
        called = [words.get(subject, subject), tokens.get(subject, subject), subject]
        nouns.append(next((noun for noun in called if find_phrase(text, noun) >= 0), subject))
    for noun, subject in zip(nouns, subjects, strict=True):
        if find_phrase(text, noun) < 0:
            raise CastmixError(
                f"the motion prompt {prompt!r} does not name {subject}: say what it is called there, such as "
                f"--words {subject}=cat, or give another --motion-prompt"
            )
    found = encoders.spans(text, nouns) if nouns else []
    for noun in {noun for noun in nouns if nouns.count(noun) > 1}:
        rows = [i for i, one in enumerate(nouns) if one == noun]
        runs = _runs(found[rows[0]])
        if len(runs) != len(rows):
            raise CastmixError(
                f"{', '.join(subjects[i] for i in rows)} are each called {noun!r}, which the motion prompt "
                f"{prompt!r} says {len(runs)} times: give --motion-prompt or --words that tell them apart"
            )
        for i, run in zip(rows, runs, strict=True):
            found[i] = run
    return BranchPrompt(embeds, tuple(found), encoders.prompt_length(text))


def _runs(span: Span) -> list[Span]:
    """Positions that follow each other, apart from the next such run."""
    runs: list[list[int]] = []
    for position in span:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return [tuple(run) for run in runs]
