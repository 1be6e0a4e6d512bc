"""Sampling with LoRAs that each act only where their subject is, without training.

    y_p = W x_p + sum over parts i of m_i(p) B_i A_i x_p         for every token p of the video

This is FreeFuse (arXiv 2510.23515) for a video transformer. A first run with the plain sum of all LoRAs goes
to an early noise level. There the attention to the words that name each subject gives the masks m_i;
neighbours in space and time vote on them. Keys and values of the prompt have no place in the picture. So
attention to the prompt is computed with each part's own keys and values, and every video token takes its
share of each result (`lora.token_gate.gate`).
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
    """The subjects that a prompt names, and where.

    Attributes:
        spans: Token positions of each phrase.
        owners: For each phrase, the adapter that it belongs to.
        real: Number of the prompt's tokens that are no padding.
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
        subjects: By adapter, the phrases that name its subjects. Those that the prompt lacks are left out.
        tokens: Special tokens by spelling. Each is found where its class noun is encoded.
    """
    nouns = {token: one.noun for token, one in (tokens or {}).items()}
    clean = " ".join(prompt.split())
    phrases = {adapter: list(dict.fromkeys(known)) for adapter, known in subjects.items()}
    there = phrases_in(clean, [phrase for known in phrases.values() for phrase in known])
    rows = [(adapter, one) for adapter, known in phrases.items() for one in known if one in there]
    found, real = subject_spans(encoders, clean, [one for _, one in rows], nouns)
    return PromptSubjects(tuple(found), tuple(adapter for adapter, _ in rows), real)


def phrases_in(text: str, phrases: Sequence[str]) -> set[str]:
    """The phrases that a text contains as whole words, not only inside a longer phrase."""
    return {phrase for phrase, places in find_phrases(text, phrases).items() if places}


@contextlib.contextmanager
def confine(
    denoiser: Denoiser, weights: Mapping[str, float], confined: Sequence[str], found: Mapping[str, Tensor]
) -> Iterator[None]:
    """The network with adapters at these weights; the confined ones act by their shares (B, f, h, w).

    An adapter with no share anywhere does not act at all.
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
    """Where each adapter is to act, (B, f, h, w) in tokens, by adapter.

    Call it inside `lora.layers.activate` of all adapters. It samples a few steps of their plain sum to see
    where each subject is. Sampling then restarts from `latents`.

    Args:
        denoiser: The network with the adapters in it.
        velocity: Velocity function of the plain sum, with or without guidance.
        named: The subjects of each prompt of the batch: see `find_subjects`.
        prompt_embeds: (B, L, D), the prompts.
        adapters: Those to keep apart. One that no phrase of a prompt belongs to does not act in it at all;
            one that is alone acts everywhere.
        latents: (B, C, f, h, w) at sigmas[0].
        sigmas: The schedule that is sampled.
        settings: How masks are made.

    Raises:
        CastmixError: settings out of range, or not one `PromptSubjects` a row.
    """
    check_level(settings)
    if len(named) != len(latents):
        raise CastmixError(f"{len(latents)} rows of latents and {len(named)} prompts: one is needed for each")
    grid = token_grid(denoiser, latents)
    if all(len(set(one.owners)) < 2 for one in named):  # nobody to keep apart: no maps needed
        blank = latents.new_zeros((0, *grid))
        rows = [shares(blank, one.owners, adapters, settings) for one in named]
        return {adapter: torch.stack([row[adapter] for row in rows]) for adapter in adapters}
    step = next(
        i for i, sigma in enumerate(sigmas.tolist()) if sigma <= settings.level or i == len(sigmas) - 2
    )
    seen = denoise(velocity, latents, sigmas[: step + 1])
    return read_shares(denoiser, seen, sigmas[step], named, prompt_embeds, adapters, settings)


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
    """Where each adapter is to act, from the attention maps at these latents: see `find_shares`."""
    module: Any = denoiser.module
    layers = map_layers(module.config.num_layers)
    if settings.layers:
        layers = MapLayers(settings.layers, layers.temporal)
    rows = []
    for row, one in enumerate(named):
        part = slice(row, row + 1)
        # without a phrase there is nothing to look for, but the grid has to be known
        maps = read_maps(
            denoiser,
            latents[part],
            sigma,
            prompt_embeds[part],
            spans=one.spans or ((0,),),
            real=one.real,
            layers=layers,
            kind="token",
        )[0]
        rows.append(shares(maps, one.owners, adapters, settings))
    return {adapter: torch.stack([row[adapter] for row in rows]) for adapter in adapters}


def check_level(settings: Masked) -> None:
    """Raise a CastmixError where `masked.sigma` is out of range."""
    if not 0 < settings.level <= 1:
        raise CastmixError(f"masked.sigma must be above 0 and up to 1, got {settings.level:g}")


def shares(
    maps: Tensor, owners: Sequence[str], adapters: Collection[str], settings: Masked = Masked()
) -> dict[str, Tensor]:
    """The share of each adapter at each token, (f, h, w) in [0, 1], from maps of all phrases (n, f, h, w).

    Every map is smoothed and scaled to [0, 1], so that a word with much attention everywhere wins only at its
    peak. A token belongs to the adapter with the largest map, or to nobody below the threshold. Then each
    token takes the majority of its neighbours in space and time. The shares of a token sum to 1 unless
    `settings.nobody` says otherwise.
    """
    grid = maps.shape[1:]
    present = [adapter for adapter in adapters if adapter in owners]
    if len(present) < 2:
        return {adapter: maps.new_full(grid, float(adapter in present)) for adapter in adapters}
    smooth = _neighbourhood(maps.float(), settings.voting)
    low, high = (edge(smooth, (1, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
    contrast = (smooth - low) / (high - low + 1e-12)
    mine = [[i for i, owner in enumerate(owners) if owner == adapter] for adapter in present]
    best = torch.stack([contrast[rows].amax(0) for rows in mine])
    nobody = len(present)
    strength, winner = best.max(0)
    winner = torch.where(strength < settings.threshold, nobody, winner)
    votes = one_hot(winner, nobody + 1).movedim(-1, 0).float()
    winner = _neighbourhood(votes, settings.voting).argmax(0)
    elsewhere = 1 / nobody if settings.nobody is None else settings.nobody
    found = {
        adapter: torch.where(winner == nobody, elsewhere, (winner == i).float())
        for i, adapter in enumerate(present)
    }
    return {adapter: found.get(adapter, torch.zeros(grid, device=maps.device)) for adapter in adapters}


def _neighbourhood(x: Tensor, radius: int) -> Tensor:
    """The mean of (n, f, h, w) over the tokens at most so far away on each axis, within the picture."""
    if radius < 0:
        raise CastmixError(f"masked.voting must be 0 or more, got {radius}")
    inside = torch.ones_like(x[:1])
    total, count = (avg_pool3d(pad(part, [radius] * 6), 2 * radius + 1, stride=1) for part in (x, inside))
    return total / count
