"""Sampling with LoRAs that each act only where their subject is, without training.

    y_p = W x_p + sum over parts i of m_i(p) B_i A_i x_p         for every token p of the video

This is FreeFuse (arXiv 2510.23515) for a video transformer. A first run with the plain sum of all LoRAs stops
at an early noise level. There the attention to the words for each subject gives the masks m_i, smoothed by a
vote among neighbours in space and time. Then sampling restarts, and `lora.token_gate.gate` applies the masks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, one_hot, pad

from toolkit.attention.map_reading import MapLayers, map_layers, read_maps, token_grid
from toolkit.captions.whole_words import find_phrases
from toolkit.core.errors import CastmixError
from toolkit.lora.layers import activate
from toolkit.lora.special_tokens import Token, subject_spans
from toolkit.lora.token_gate import gate
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser, Encoders
from toolkit.sampling.denoise import denoise
from toolkit.sampling.settings import Masked


@dataclass(frozen=True)
class PromptSubjects:
    """The subjects that a prompt names, and their token positions.

    Attributes:
        spans: Token positions of each phrase.
        owners: For each phrase, the adapter that it belongs to.
        real: Number of positions that are no padding.
    """

    spans: tuple[tuple[int, ...], ...]
    owners: tuple[str, ...]
    real: int


def find_subjects(
    encoders: Encoders,
    prompt: str,
    subjects: Mapping[str, Sequence[str]],
    tokens: Mapping[str, Token] | None = None,
) -> PromptSubjects:
    """Find the subjects of adapters in a prompt.

    Args:
        encoders: The model's encoders.
        prompt: The prompt that is sampled.
        subjects: Phrases by adapter. Phrases that the prompt does not contain are left out.
        tokens: Special tokens by spelling. Each is found where its class noun is encoded.
    """
    nouns = {name: token.noun for name, token in (tokens or {}).items()}
    clean = " ".join(prompt.split())
    phrases = {adapter: list(dict.fromkeys(known)) for adapter, known in subjects.items()}
    present = phrases_in(clean, [phrase for known in phrases.values() for phrase in known])
    rows = [(adapter, phrase) for adapter, known in phrases.items() for phrase in known if phrase in present]
    spans, real = subject_spans(encoders, clean, [phrase for _, phrase in rows], nouns)
    return PromptSubjects(tuple(spans), tuple(adapter for adapter, _ in rows), real)


def phrases_in(text: str, phrases: Sequence[str]) -> set[str]:
    """The phrases that a text contains as whole words, outside longer phrases of the list."""
    return {phrase for phrase, places in find_phrases(text, phrases).items() if places}


@contextlib.contextmanager
def confine(
    denoiser: Denoiser, weights: Mapping[str, float], confined: Sequence[str], found: Mapping[str, Tensor]
) -> Iterator[None]:
    """Inside, adapters are active at these weights, and the confined ones act by their shares (B, f, h, w).

    An adapter whose shares are all 0 is not active.
    """
    shares = {name: share.flatten(1) for name, share in found.items() if share.any()}
    active = {name: weight for name, weight in weights.items() if name not in confined or name in shares}
    with activate(denoiser.module, active), gate(denoiser.module, shares):
        yield


@torch.no_grad()
def find_shares(
    denoiser: Denoiser,
    velocity: Velocity,
    named: Sequence[PromptSubjects],
    prompt_embeds: Tensor,
    *,
    adapters: Sequence[str],
    latents: Tensor,
    sigmas: Tensor,
    settings: Masked = Masked(),
) -> dict[str, Tensor]:
    """The shares of each adapter, (B, f, h, w) in tokens, by adapter.

    Call it inside `lora.layers.activate` of all adapters. It samples a few steps of their plain sum and reads
    attention maps there. Sampling then restarts from `latents`.

    Args:
        denoiser: The network with the adapters in it.
        velocity: Velocity function of the plain sum, with or without guidance.
        named: The subjects of each prompt of the batch: see `find_subjects`.
        prompt_embeds: (B, L, D), the prompts.
        adapters: The adapters to keep apart. An adapter without a phrase in a prompt does not act there. If
            only one has phrases, it acts everywhere.
        latents: (B, C, f, h, w) at sigmas[0].
        sigmas: The schedule that is sampled.
        settings: How masks are made.

    Raises:
        CastmixError: settings out of range, or `named` and `latents` differ in length.
    """
    check_level(settings)
    if len(named) != len(latents):
        raise CastmixError(
            f"{len(latents)} rows of latents and {len(named)} prompts: expected one prompt per row"
        )
    grid = token_grid(denoiser, latents)
    if all(len(set(subjects.owners)) < 2 for subjects in named):  # nothing to keep apart: no maps needed
        blank = latents.new_zeros((0, *grid))
        rows = [shares_from_maps(blank, subjects.owners, adapters, settings) for subjects in named]
        return {adapter: torch.stack([row[adapter] for row in rows]) for adapter in adapters}
    step = next(
        i for i, sigma in enumerate(sigmas.tolist()) if sigma <= settings.level or i == len(sigmas) - 2
    )
    noisy = denoise(velocity, latents, sigmas[: step + 1])
    return read_shares(denoiser, noisy, sigmas[step], named, prompt_embeds, adapters, settings)


@torch.no_grad()
def read_shares(
    denoiser: Denoiser,
    latents: Tensor,
    sigma: Tensor,
    named: Sequence[PromptSubjects],
    prompt_embeds: Tensor,
    adapters: Sequence[str],
    settings: Masked,
) -> dict[str, Tensor]:
    """The shares of each adapter, (B, f, h, w), from attention maps at these latents; see `find_shares`."""
    module: Any = denoiser.module
    layers = map_layers(module.config.num_layers)
    if settings.layers:
        layers = MapLayers(settings.layers, layers.temporal)
    rows = []
    for row, subjects in enumerate(named):
        part = slice(row, row + 1)
        # a prompt without phrases needs no map, but `shares_from_maps` needs the shape of one
        maps = read_maps(
            denoiser,
            latents[part],
            sigma,
            prompt_embeds[part],
            spans=subjects.spans or ((0,),),
            real=subjects.real,
            layers=layers,
            kind="token",
        )[0]
        rows.append(shares_from_maps(maps, subjects.owners, adapters, settings))
    return {adapter: torch.stack([row[adapter] for row in rows]) for adapter in adapters}


def check_level(settings: Masked) -> None:
    """Raise a CastmixError where `masked.sigma` is out of range."""
    if not 0 < settings.level <= 1:
        raise CastmixError(f"masked.sigma must be above 0 and up to 1, got {settings.level:g}")


def shares_from_maps(
    maps: Tensor, owners: Sequence[str], adapters: Collection[str], settings: Masked = Masked()
) -> dict[str, Tensor]:
    """The share of each adapter at each token, (f, h, w) in [0, 1], from maps of all phrases (n, f, h, w).

    1. Every map is smoothed and scaled to [0, 1]. So a word with much attention everywhere wins only at its
       peak.
    2. A token belongs to the adapter with the largest map. Below `settings.threshold` it belongs to none.
    3. Each token takes the majority among its neighbours in space and time.

    Tokens of no adapter have the share `settings.nobody` for all, by default evenly. Then all shares of a
    token sum to 1.
    """
    grid = maps.shape[1:]
    present = [adapter for adapter in adapters if adapter in owners]
    if len(present) < 2:
        return {adapter: maps.new_full(grid, float(adapter in present)) for adapter in adapters}
    smooth = _local_mean(maps.float(), settings.voting)
    low, high = smooth.amin((1, 2, 3), keepdim=True), smooth.amax((1, 2, 3), keepdim=True)
    contrast = (smooth - low) / (high - low + 1e-12)
    phrases = [[i for i, owner in enumerate(owners) if owner == adapter] for adapter in present]
    best = torch.stack([contrast[rows].amax(0) for rows in phrases])
    nobody = len(present)
    strength, winner = best.max(0)
    winner = torch.where(strength < settings.threshold, nobody, winner)
    votes = one_hot(winner, nobody + 1).movedim(-1, 0).float()
    winner = _local_mean(votes, settings.voting).argmax(0)
    elsewhere = 1 / nobody if settings.nobody is None else settings.nobody
    found = {
        adapter: torch.where(winner == nobody, elsewhere, (winner == i).float())
        for i, adapter in enumerate(present)
    }
    return {adapter: found.get(adapter, torch.zeros(grid, device=maps.device)) for adapter in adapters}


def _local_mean(x: Tensor, radius: int) -> Tensor:
    """The mean of (n, f, h, w) over neighbours up to `radius` tokens away on each axis, inside the grid."""
    if radius < 0:
        raise CastmixError(f"masked.voting must be 0 or more, got {radius}")
    inside = torch.ones_like(x[:1])
    total, count = (avg_pool3d(pad(part, [radius] * 6), 2 * radius + 1, stride=1) for part in (x, inside))
    return total / count
