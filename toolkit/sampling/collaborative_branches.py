"""The branches of collaborative sampling: a network with adapters, a prompt, and a reader of its maps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.map_reading import every_second_site, map_layers, map_reducer, token_grid
from toolkit.attention.maps import normalised
from toolkit.captions.grammar import TAG
from toolkit.captions.whole_words import find_phrase
from toolkit.core.errors import CastmixError
from toolkit.lora.special_tokens import subject_spans, substitute
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser, Encoders
from toolkit.sampling.collaborative_gradients import Branch, MapKind, MapReader, Maps
from toolkit.sampling.settings import Collaboration

Span = tuple[int, ...]
"""Token positions of a subject in a prompt."""


@dataclass(frozen=True, eq=False)
class BranchPrompt:
    """A branch's prompt and where it names the subjects.

    Attributes:
        embeds: (1 or B, L, D).
        spans: Of each subject, in the same order for both branches. Spatial maps need them.
        real: Number of positions that are no padding.
    """

    embeds: Tensor
    spans: tuple[Span, ...] = ()
    real: int = 0


def make_branch(
    denoiser: Denoiser,
    prompt: BranchPrompt,
    velocity: Velocity,
    active: Callable[[], AbstractContextManager[None]],
    settings: Collaboration,
) -> Branch:
    """Make a branch of a network.

    Args:
        denoiser: The network, shared by both branches.
        prompt: The branch's prompt.
        velocity: Velocity function of the network with this prompt and guidance.
        active: Makes a context with the branch's adapters.
        settings: Of collaborative sampling.
    """
    checkpointing = settings.checkpointing
    if checkpointing is None:
        checkpointing = denoiser.device.type != "cpu"

    def follow(latents: Tensor, sigma: Tensor) -> Tensor:
        with active():
            return velocity(latents, sigma)

    return Branch(follow, map_reader(denoiser, prompt, settings.window, checkpointing), active)


def map_reader(denoiser: Denoiser, prompt: BranchPrompt, window: int, checkpointing: bool) -> MapReader:
    """A function that reads a branch's attention maps.

    It runs the network with the prompt only, without guidance, up to the last block that is read. Spatial
    maps are (B, subjects, f, h, w), normalised, the mean over layers. Temporal maps are (B, heads, S, f, …),
    one tensor per layer, at S sites.

    Args:
        denoiser: The network.
        prompt: The branch's prompt.
        window: Radius of the temporal maps' neighbourhood. With a window, S is every second site of every
            second row, because the maps grow with the window's square.
        checkpointing: Whether the backward pass recomputes blocks.
    """
    module: Any = denoiser.module
    layers, embeds = map_layers(module.config.num_layers), prompt.embeds.to(denoiser.device)

    def read(latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]) -> Maps:
        cross = layers.cross if "spatial" in kinds else ()
        temporal = layers.temporal if "temporal" in kinds else ()
        if cross and not prompt.spans:
            raise CastmixError("the prompt names no subject, and spatial maps need one")
        grid = token_grid(denoiser, latents)
        sites = every_second_site(grid) if window else None
        reduce = map_reducer(grid, spans=prompt.spans, real=prompt.real, sites=sites, window=window)
        last = max(*cross, *temporal)
        with (
            checkpointed(module, checkpointing),
            denoiser.capture_attention(
                cross=cross, temporal=temporal, stop_after=last, reduce=reduce
            ) as captured,
        ):
            denoiser(latents, sigma, embeds.expand(len(latents), -1, -1))
        maps: Maps = {}
        if cross:
            mean = torch.stack([captured.maps["cross", layer] for layer in cross]).mean(0)
            maps["spatial"] = (normalised(mean),)
        if temporal:
            maps["temporal"] = tuple(captured.maps["temporal", layer] for layer in temporal)
        return maps

    return read


@contextlib.contextmanager
def checkpointed(module: Any, on: bool) -> Iterator[None]:
    """Inside, gradient checkpointing is on, if `on`: forward passes keep the inputs of blocks only."""
    before = module.gradient_checkpointing
    if on and not before:
        module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if on and not before:
            module.disable_gradient_checkpointing()


def subjects_of(prompt: str, words: Mapping[str, str]) -> list[str]:
    """The subjects that a prompt names, in its order: tagged characters and the keys of `words`."""
    places = {name: find_phrase(prompt, name) for name in [*TAG.findall(prompt), *words]}
    return sorted((name for name, place in places.items() if place >= 0), key=lambda name: places[name])


def subject_branch_prompt(
    encoders: Encoders, prompt: str, embeds: Tensor, subjects: Sequence[str], tokens: Mapping[str, str]
) -> BranchPrompt:
    """The subject branch's prompt and where it names the subjects.

    tokens: Noun by special token, from the LoRA files. A token is found where its noun was encoded.
    """
    spans, real = subject_spans(encoders, prompt, subjects, tokens)
    return BranchPrompt(embeds, tuple(spans), real)


def motion_branch_prompt(
    encoders: Encoders,
    prompt: str,
    embeds: Tensor,
    subjects: Sequence[str],
    words: Mapping[str, str],
    tokens: Mapping[str, str] = {},
) -> BranchPrompt:
    """The motion branch's prompt and where it names the subjects of the subject branch.

    A subject is found by its noun in `words`, by its token's noun, or by its own name, in this order. Several
    subjects with the same noun ("a cat chases a cat") are taken in the prompt's order.

    Args:
        encoders: The model's encoders.
        prompt: The motion branch's prompt.
        embeds: Its embedding, (1, L, D).
        subjects: The subjects, as the subject branch's prompt names them.
        words: Nouns by subject.
        tokens: Noun by special token, from the LoRA files.

    Raises:
        CastmixError: a subject is not named, or a noun does not occur once for each of its subjects.
    """
    from toolkit.models.wan import clean_prompt

    text, _ = substitute(clean_prompt(prompt), tokens)
    nouns = []
    for subject in subjects:
        candidates = [words.get(subject, subject), tokens.get(subject, subject), subject]
        nouns.append(next((noun for noun in candidates if find_phrase(text, noun) >= 0), subject))
    for noun, subject in zip(nouns, subjects, strict=True):
        if find_phrase(text, noun) < 0:
            raise CastmixError(
                f"the motion prompt {prompt!r} does not name {subject}: give its noun there, such as "
                f"--words {subject}=cat, or give another --motion-prompt"
            )
    spans = encoders.token_spans(text, nouns) if nouns else []
    for noun in {noun for noun in nouns if nouns.count(noun) > 1}:
        rows = [i for i, other in enumerate(nouns) if other == noun]
        runs = _runs(spans[rows[0]])
        if len(runs) != len(rows):
            raise CastmixError(
                f"{', '.join(subjects[i] for i in rows)} are each called {noun!r}, which the motion prompt "
                f"{prompt!r} has {len(runs)} times: give different nouns with --words, or a --motion-prompt"
            )
        for i, run in zip(rows, runs, strict=True):
            spans[i] = run
    return BranchPrompt(embeds, tuple(spans), encoders.prompt_length(text))


def _runs(span: Span) -> list[Span]:
    """Split positions into runs of consecutive ones."""
    runs: list[list[int]] = []
    for position in span:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return [tuple(run) for run in runs]
