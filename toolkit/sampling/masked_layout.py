"""A masked fusion whose picture the base lays out (`masked.layout base`).

LoRAs that were each trained on clips of one character draw one character: summed, they draw one in the
middle that is half of each, and masks that are found there keep apart what is already one. The base has not
forgotten how two stand beside each other. So while the noise is above `masked.sigma` it samples alone, from
the prompt in plain words; its maps of the nouns there say who is where, and the LoRAs go on from the same
latents, each in its own place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention.maps import token_grid
from toolkit.lora.layers import activate
from toolkit.models.flow_matching import Velocity
from toolkit.models.interfaces import Denoiser
from toolkit.sampling.masked_loras import Named, check_level, confine, read_shares, shares
from toolkit.sampling.settings import Masked


@dataclass(frozen=True, eq=False)
class Plain:
    """Prompts in words that the base knows, (n, L, D), and where they name the subjects of which adapters."""

    embeds: Tensor
    named: tuple[Named, ...]


def laid_out(
    denoiser: Denoiser,
    velocity: Callable[[Tensor], Velocity],
    prompts: Tensor,
    plain: Plain,
    *,
    weights: Mapping[str, float],
    adapters: Sequence[str],
    settings: Masked,
) -> Velocity:
    """The velocity of one run of `sample_euler`: the base above `masked.sigma`, then each LoRA in place.

    Rows that name the subjects of fewer than two adapters need no layout: theirs is the LoRA from the start.

    Args:
        denoiser: The network with the adapters in it, none of them active.
        velocity: From prompts (B, L, D) to the network's velocity, guidance included.
        prompts: (B, L, D), as the LoRAs know them.
        plain: The same B prompts for the base.
        weights: Of all adapters. Those that are not kept apart act while the base lays out the picture, too.
        adapters: Those to keep apart.
        settings: How masks are made.

    Raises:
        CastmixError: settings.sigma is out of range.
    """
    check_level(settings)
    others = {name: weight for name, weight in weights.items() if name not in adapters}
    several = torch.tensor([len(set(one.owners)) > 1 for one in plain.named])
    found: dict[str, Tensor] = {}

    def early(latents: Tensor, sigma: Tensor) -> Tensor:
        predicted = torch.empty_like(latents)
        with activate(denoiser.module, others):
            predicted[several] = velocity(plain.embeds[several])(latents[several], sigma)
        if not several.all():
            blank = latents.new_zeros((0, *token_grid(denoiser, latents)))
            lone = [one for one, row in zip(plain.named, several.tolist(), strict=True) if not row]
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
                found.update(read_shares(denoiser, latents, sigma, plain.named, embeds, adapters, settings))
        with confine(denoiser, weights, adapters, found):
            return velocity(prompts)(latents, sigma)

    return follow
