"""A masked fusion whose layout the base model decides (`masked.layout base`).

LoRAs that were each trained on clips of one character draw one character. Their sum draws one figure in the
middle that is half of each, and masks read from it separate nothing. The base model still draws two figures
side by side. So above noise level `masked.sigma` the base samples alone, from the prompt in plain words. Its
attention to the nouns gives the masks, and the LoRAs continue from the same latents, each in its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention.map_reading import token_grid
from toolkit.lora.layers import activate
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser
from toolkit.sampling.masked_loras import PromptSubjects, check_level, confine, read_shares, shares
from toolkit.sampling.settings import Masked


@dataclass(frozen=True, eq=False)
class PlainPrompts:
    """Prompts in plain words, (n, L, D), and where each names the subjects of the adapters."""

    embeds: Tensor
    subjects: tuple[PromptSubjects, ...]


def laid_out(
    denoiser: Denoiser,
    velocity: Callable[[Tensor], Velocity],
    prompts: Tensor,
    plain: PlainPrompts,
    *,
    weights: Mapping[str, float],
    adapters: Sequence[str],
    settings: Masked,
) -> Velocity:
    """A velocity function for one run of `denoise`: the base above `masked.sigma`, then each LoRA in place.

    Prompts that name the subjects of fewer than two adapters need no layout. Their LoRA acts from the start.

    Args:
        denoiser: The network with the adapters in it, none of them active.
        velocity: From prompts (B, L, D) to the network's velocity, guidance included.
        prompts: (B, L, D), as the LoRAs know them.
        plain: The same B prompts for the base.
        weights: Of all adapters. Those that are not confined also act while the base decides the layout.
        adapters: The confined adapters.
        settings: How masks are made.

    Raises:
        CastmixError: settings.sigma is out of range.
    """
    check_level(settings)
    others = {name: weight for name, weight in weights.items() if name not in adapters}
    several = torch.tensor([len(set(one.owners)) > 1 for one in plain.subjects])
    found: dict[str, Tensor] = {}

    def early(latents: Tensor, sigma: Tensor) -> Tensor:
        predicted = torch.empty_like(latents)
        with activate(denoiser.module, others):
            predicted[several] = velocity(plain.embeds[several])(latents[several], sigma)
        if not several.all():
            blank = latents.new_zeros((0, *token_grid(denoiser, latents)))
            lone = [one for one, row in zip(plain.subjects, several.tolist(), strict=True) if not row]
            rows = [shares(blank, one.owners, adapters, settings) for one in lone]
            here = {name: torch.stack([row[name] for row in rows]) for name in adapters}
            with confine(denoiser, weights, adapters, here):
                predicted[~several] = velocity(prompts[~several])(latents[~several], sigma)
        return predicted

    def follow(latents: Tensor, sigma: Tensor) -> Tensor:
        if float(sigma) > settings.level and several.any():
            return early(latents, sigma)
        if not found:
            with activate(denoiser.module, others):
                embeds = plain.embeds.to(latents.device)
                found.update(
                    read_shares(denoiser, latents, sigma, plain.subjects, embeds, adapters, settings)
                )
        with confine(denoiser, weights, adapters, found):
            return velocity(prompts)(latents, sigma)

    return follow
