"""A masked fusion whose layout the base model decides (`masked.layout base`).

Some LoRAs were trained on clips of a single character each. Their sum draws one figure that mixes the
characters, and masks read from it separate nothing. The base model alone draws two figures side by side.
So above noise level `masked.sigma` the base model samples from the prompt in plain words. Its attention to
the nouns gives the masks. Then the LoRAs continue from the same latents, each inside its mask.
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
from toolkit.sampling.masked_loras import PromptSubjects, check_level, confine, read_shares, shares_from_maps
from toolkit.sampling.settings import Masked


@dataclass(frozen=True, eq=False)
class PlainPrompts:
    """Prompts in plain words for the base model.

    Attributes:
        embeds: (n, L, D).
        subjects: Where each prompt names the subjects of the adapters.
    """

    embeds: Tensor
    subjects: tuple[PromptSubjects, ...]


def base_layout_velocity(
    denoiser: Denoiser,
    velocity: Callable[[Tensor], Velocity],
    prompts: Tensor,
    plain: PlainPrompts,
    *,
    weights: Mapping[str, float],
    adapters: Sequence[str],
    settings: Masked,
) -> Velocity:
    """A velocity function for one run of `denoise`: first the base model, then each LoRA in its mask.

    A prompt that names the subjects of fewer than two adapters needs no layout; its LoRA acts from the start.

    Args:
        denoiser: The network with the adapters in it, none of them active.
        velocity: Makes the network's velocity function for prompts (B, L, D), guidance included.
        prompts: (B, L, D), for the LoRAs.
        plain: The same B prompts in plain words, for the base model.
        weights: Of all adapters. Those that are not confined also act while the base model samples.
        adapters: The confined adapters.
        settings: How masks are made.

    Raises:
        CastmixError: settings.sigma is out of range.
    """
    check_level(settings)
    others = {name: weight for name, weight in weights.items() if name not in adapters}
    several = torch.tensor([len(set(named.owners)) > 1 for named in plain.subjects])
    found: dict[str, Tensor] = {}

    def before_layout(latents: Tensor, sigma: Tensor) -> Tensor:
        predicted = torch.empty_like(latents)
        with activate(denoiser.module, others):
            predicted[several] = velocity(plain.embeds[several])(latents[several], sigma)
        if not several.all():
            blank = latents.new_zeros((0, *token_grid(denoiser, latents)))
            single = [named for named, row in zip(plain.subjects, several.tolist(), strict=True) if not row]
            rows = [shares_from_maps(blank, named.owners, adapters, settings) for named in single]
            everywhere = {name: torch.stack([row[name] for row in rows]) for name in adapters}
            with confine(denoiser, weights, adapters, everywhere):
                predicted[~several] = velocity(prompts[~several])(latents[~several], sigma)
        return predicted

    def layout_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        if float(sigma) > settings.level and several.any():
            return before_layout(latents, sigma)
        if not found:
            with activate(denoiser.module, others):
                embeds = plain.embeds.to(latents.device)
                found.update(
                    read_shares(denoiser, latents, sigma, plain.subjects, embeds, adapters, settings)
                )
        with confine(denoiser, weights, adapters, found):
            return velocity(prompts)(latents, sigma)

    return layout_velocity
