"""What a training step is made of: which clips, how much noise, whose caption is dropped.

All of it is a function of (seed, step) and of the row of the batch, so a run has no state but its weights:
interrupted or not, on one process or several, row k of step n is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.seeds import generator_for
from toolkit.models.flow_matching import sample_sigmas, sigma_quantiles
from toolkit.training.cached_clips import Item, choose
from toolkit.training.settings import Sigma


@dataclass(frozen=True)
class Mix:
    """What batches are drawn from.

    `learned` are the clips to learn and `pasted` the composites among them that are weighted apart: their
    `pasted_share` of the learned rows, 0 to 1. `kept` are clips of the base model's own world, with a
    `kept_share` of all rows. Both shares come out exactly over the steps, in whole rows of each. `empty`
    (L, D) embeds the empty prompt, `worded` the captions that are not embedded as the cache has them, (L, D)
    by text: those with special tokens.
    """

    learned: Sequence[Item]
    pasted: Sequence[Item]
    kept: Sequence[Item]
    batch_size: int
    pasted_share: Fraction
    kept_share: Fraction
    caption_dropout: float
    empty: Tensor
    seed: int
    worded: Mapping[str, Tensor] = field(default_factory=dict)

    def kept_before(self, step: int) -> int:
        """How many rows of the base model's world all steps before this one have."""
        return int(step * self.batch_size * self.kept_share)

    def kept_rows(self, step: int) -> int:
        """How many rows of the base model's world a step has: its last ones."""
        return self.kept_before(step + 1) - self.kept_before(step)


@dataclass(frozen=True)
class Batch:
    """Rows of one latent shape: latents and noise (B, C, f, h, w), prompt_embeds (B, L, D), sigma (B,).

    `kept` (B,) is true for rows of the base model's world. `anchor` (B,) in [0, 1) is a place in time drawn
    for each row, for objectives that compare frames with one of them.
    """

    latents: Tensor
    prompt_embeds: Tensor
    sigma: Tensor
    noise: Tensor
    kept: Tensor
    anchor: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same rows on a device."""
        return Batch(*(getattr(self, part.name).to(device) for part in fields(self)))


def new_mix(
    learned: Sequence[Item],
    kept: Sequence[Item],
    empty: Tensor,
    *,
    batch_size: int,
    preserve_share: float,
    caption_dropout: float,
    seed: int,
    composites: float | None = None,
    worded: Mapping[str, Tensor] | None = None,
) -> Mix:
    """Check the shares.

    composites: How many composites to draw for each original clip, r: they get r / (1 + r) of the draws,
        however many there are (Character Mixing: 0.10). None draws every clip alike.
    """
    for name, value in (("preserve_share", preserve_share), ("caption_dropout", caption_dropout)):
        if not 0 <= value <= 1:
            raise CastmixError(f"{name} must be between 0 and 1, got {value:g}")
    if batch_size < 1:
        raise CastmixError(f"batch_size must be at least 1, got {batch_size}")
    if kept and preserve_share == 1:
        raise CastmixError("preserve_share 1 leaves no room for your clips: use a smaller share")
    kept_share = Fraction(str(preserve_share)) if kept else Fraction(0)
    originals, pasted = list(learned), []
    if composites is not None:
        if not 0 <= composites < math.inf:
            raise CastmixError(
                f"composites must be 0 or more (0.1: one for ten originals), got {composites:g}"
            )
        originals, pasted = ([item for item in learned if item.composite is side] for side in (False, True))
        if not originals or (composites and not pasted):
            raise CastmixError(
                f"composites {composites:g} weighs composites against originals, but of {len(learned)} clips "
                f"{len(pasted)} are composites: give folders of both (`castmix composite` makes them)"
            )
    ratio = Fraction(str(composites or 0))  # exact, so that a share of 1/11 is one of every eleven draws
    share = ratio / (1 + ratio)
    return Mix(
        originals, pasted, kept, batch_size, share, kept_share, caption_dropout, empty, seed, worded or {}
    )


def draw(mix: Mix, step: int, sigma: Sigma, shift: float, rank: int = 0, processes: int = 1) -> list[Batch]:
    """This process's rows of the batch of a step, one Batch for each latent shape among them."""
    seed, size = mix.seed, mix.batch_size
    items = step_items(mix, step)
    sigmas = sample_sigmas(
        size, mean=sigma.mean, std=sigma.std, shift=shift, generator=generator_for(seed, step, "sigma")
    )
    dropped = torch.rand(size, generator=generator_for(seed, step, "caption dropout")) < mix.caption_dropout
    anchors = torch.rand(size, generator=generator_for(seed, step, "anchor"))
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row in range(rank, size, processes):
        by_shape.setdefault(items[row].shape, []).append(row)
    batches = []
    for rows in by_shape.values():
        latents, embeds = zip(*(load(items[row], mix.worded) for row in rows), strict=True)
        batches.append(
            Batch(
                latents=torch.stack(latents),
                prompt_embeds=torch.stack(
                    [mix.empty if dropped[row] else own for row, own in zip(rows, embeds, strict=True)]
                ),
                sigma=sigmas[rows],
                noise=torch.stack([_noise(items[row], seed, step, f"noise/{row}") for row in rows]),
                kept=torch.tensor([row >= size - mix.kept_rows(step) for row in rows]),
                anchor=anchors[rows],
            )
        )
    return batches


def step_items(mix: Mix, step: int) -> list[Item]:
    """The clips of a step: originals, composites, kept ones.

    A step has a whole number of each; over the steps their shares come out exactly.
    """
    kept = [mix.kept_before(n) for n in (step, step + 1)]
    rows = [n * mix.batch_size - k for n, k in zip((step, step + 1), kept, strict=True)]
    pasted = [int(count * mix.pasted_share) for count in rows]
    own = [count - part for count, part in zip(rows, pasted, strict=True)]
    drawn = (
        (mix.learned, range(*own), "data"),
        (mix.pasted, range(*pasted), "composites"),
        (mix.kept, range(*kept), "preserve"),
    )
    return [
        items[k]
        for items, places, what in drawn
        for k in choose(len(items), places, seed=mix.seed, what=what)
    ]


def validation(
    held: Sequence[Item],
    levels: int,
    sigma: Sigma,
    shift: float,
    seed: int,
    rank: int = 0,
    processes: int = 1,
    worded: Mapping[str, Tensor] | None = None,
) -> Iterator[Batch]:
    """Each clip held back at `levels` equally likely noise levels, with noise that never changes."""
    sigmas = sigma_quantiles(levels, mean=sigma.mean, std=sigma.std, shift=shift)
    for i in range(rank, len(held), processes):
        latents, embeds = load(held[i], worded or {})
        yield Batch(
            latents=latents.expand(levels, *latents.shape),
            prompt_embeds=embeds.expand(levels, *embeds.shape),
            sigma=sigmas,
            noise=torch.stack([_noise(held[i], seed, 0, f"validation/{i}/{k}") for k in range(levels)]),
            kept=torch.zeros(levels, dtype=torch.bool),
            anchor=torch.zeros(levels),
        )


def load(item: Item, worded: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Latents (C, f, h, w) and prompt embeddings (L, D) of a clip; `worded` goes before what is cached."""
    latents, embeds = item.load()
    return latents, worded.get(item.text, embeds)


def _noise(item: Item, seed: int, step: int, what: str) -> Tensor:
    return torch.randn(item.shape, generator=generator_for(seed, step, what))
