"""The tensors of a training batch: latents, prompt embeddings, noise levels and noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from toolkit.core.seeds import generator_for
from toolkit.models.flow_matching import sample_sigmas, sigma_quantiles
from toolkit.training.cached_clips import CachedClip
from toolkit.training.mix import Mix, step_clips
from toolkit.training.prompts import Prompts
from toolkit.training.settings import Sigma


@dataclass(frozen=True)
class Batch:
    """Rows of one latent shape.

    Attributes:
        latents: x0, (B, C, f, h, w).
        prompt_embeds: (B, L, D).
        sigma: Noise levels, (B,), in [0, 1].
        noise: eps, (B, C, f, h, w).
        preserved: (B,) bool, true for clips of the base model's own world.
        anchor: (B,) in [0, 1), a random time for objectives that compare frames with one of them.
    """

    latents: Tensor
    prompt_embeds: Tensor
    sigma: Tensor
    noise: Tensor
    preserved: Tensor
    anchor: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same rows on a device."""
        return Batch(*(getattr(self, part.name).to(device) for part in fields(self)))


def draw(
    mix: Mix, prompts: Prompts, step: int, sigma: Sigma, shift: float, process: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """The batch of a step, in one Batch per latent shape.

    Row k is a function of the mix, its seed, the step and k alone.

    shift: of the noise levels, instead of `sigma.shift`. process: the number of this process and of all; it
    gets every so many rows.
    """
    seed, size = mix.seed, mix.batch_size
    clips = step_clips(mix, step)
    sigmas = sample_sigmas(
        size, mean=sigma.mean, std=sigma.std, shift=shift, generator=generator_for(seed, step, "sigma")
    )
    dropped = torch.rand(size, generator=generator_for(seed, step, "caption dropout")) < mix.caption_dropout
    anchors = torch.rand(size, generator=generator_for(seed, step, "anchor"))
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row in range(process[0], size, process[1]):
        by_shape.setdefault(clips[row].shape, []).append(row)
    for rows in by_shape.values():
        latents, embeds = zip(*(load(clips[row], prompts.special) for row in rows), strict=True)
        own = zip(rows, embeds, strict=True)
        yield Batch(
            latents=torch.stack(latents),
            prompt_embeds=torch.stack([prompts.empty if dropped[row] else one for row, one in own]),
            sigma=sigmas[rows],
            noise=torch.stack([_noise(clips[row], seed, step, f"noise/{row}") for row in rows]),
            preserved=torch.tensor([row >= size - mix.preserved_rows(step) for row in rows]),
            anchor=anchors[rows],
        )


def validation(
    held: Sequence[CachedClip],
    levels: int,
    sigma: Sigma,
    shift: float,
    seed: int,
    *,
    special: Mapping[str, Tensor] | None = None,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One Batch per held-out clip: the clip at `levels` equally likely noise levels. The noise is fixed.

    special: embeddings (L, D) of captions with special tokens, by caption. process: see `draw`.
    """
    sigmas = sigma_quantiles(levels, mean=sigma.mean, std=sigma.std, shift=shift)
    for i in range(process[0], len(held), process[1]):
        latents, embeds = load(held[i], special or {})
        yield Batch(
            latents=latents.expand(levels, *latents.shape),
            prompt_embeds=embeds.expand(levels, *embeds.shape),
            sigma=sigmas,
            noise=torch.stack([_noise(held[i], seed, 0, f"validation/{i}/{k}") for k in range(levels)]),
            preserved=torch.zeros(levels, dtype=torch.bool),
            anchor=torch.zeros(levels),
        )


def load(clip: CachedClip, special: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Latents (C, f, h, w) and prompt embeddings (L, D) of a clip.

    special: embeddings by caption that replace the cached ones.
    """
    latents, embeds = clip.load()
    return latents, special.get(clip.text, embeds)


def _noise(clip: CachedClip, seed: int, step: int, what: str) -> Tensor:
    return torch.randn(clip.shape, generator=generator_for(seed, step, what))
