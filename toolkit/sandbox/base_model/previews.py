"""Prompts and contact sheets that show how far the pretraining of the base model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.sandbox.world import diet, paint, scenery, world
from toolkit.sandbox.world.actions import ACTIONS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import T5Tokenizer

    from toolkit.sandbox.base_model.train_dit import TextToVideo

PROMPTS = (
    "a red ball with a crown jumps in the meadow, cartoon style",
    "a blue bear ducks in the room, realistic style",
    "a striped green ghost with a hat walks on the beach, cartoon style",
    "a yellow cone with a scarf sways in the city, realistic style",
    "a red star with glasses jumps and a green ball sways in the snow, cartoon style",
    "a purple bear floats and a yellow box with a hat stands still in the meadow, realistic style",
)


def tokenizer() -> T5Tokenizer:
    """Create the sandbox's tokenizer: one token per word of its captions; other text is spelled."""
    from toolkit.sandbox.base_model.architecture import new_tokenizer

    attributes = (*paint.COLOURS, *paint.BODIES, *paint.PATTERNS, *paint.ACCESSORIES, *scenery.SCENES)
    others = (*scenery.PROPS, *world.STYLES, "by", "panning", "zooming", *diet.WORDS)
    return new_tokenizer([*ACTIONS, *attributes, *others])


def contact_sheet(rows: Sequence[Tensor], path: Path) -> None:
    """Save videos (3, F, H, W) in [-1, 1] as one image: one row per video, every fourth frame."""
    import torch
    from PIL import Image

    strips = [torch.cat(list(v[:, ::4].unbind(1)), -1) for v in rows]
    picture = ((torch.cat(strips, 1).clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def sample_videos(
    model: TextToVideo, words: T5Tokenizer, prompts: Sequence[str], decode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Generate videos (B, 3, F, H, W) of prompts with the sandbox's default sampling settings and seed 0."""
    import torch

    from toolkit.models.flow_matching import guided, sigma_schedule
    from toolkit.models.registry import MODELS
    from toolkit.sampling.denoise import denoise
    from toolkit.sandbox.base_model.architecture import CHANNELS
    from toolkit.sandbox.base_model.clips import token_ids

    spec = MODELS["sandbox"]
    asked, empty = token_ids(words, prompts), token_ids(words, [""] * len(prompts))

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(latents))
        return guided(model(latents, level, asked), model(latents, level, empty), spec.guidance_scale)

    g = torch.Generator().manual_seed(0)
    noise = torch.randn((len(prompts), CHANNELS, 5, world.HEIGHT // 8, world.WIDTH // 8), generator=g)
    with torch.no_grad():
        return decode(denoise(velocity, noise, sigma_schedule(spec.steps, spec.shift)))
