"""The two losses of gradient fusion (VideoMage, eqs. 6 and 7): velocities, and attention maps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.attention.map_reading import MapLayers, read_maps, token_grid
from toolkit.attention.maps import normalised
from toolkit.core.progress import say
from toolkit.core.seeds import generator_for
from toolkit.fusion.job import Job
from toolkit.fusion.training_clips import Pair
from toolkit.lora.layers import activate
from toolkit.lora.parts import Part
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser
from toolkit.training.batches import Batch, draw, load
from toolkit.training.mix import Mix, shuffled
from toolkit.training.prompts import Prompts

STUDENT = "fused"
"""Adapter that is trained."""
CHECKED = 6
"""Number of pairs whose maps are compared after training."""


@dataclass(frozen=True)
class Lesson:
    """All that stays the same from the first step to the last.

    Attributes:
        parts: The LoRAs.
        mixes: The clips of each LoRA.
        prompts: Embeddings that the clips' caches do not have.
        pairs: Clips of several subjects.
        denoiser: The base model with an adapter for each LoRA and the student, which alone is active.
        layers: Blocks whose maps are compared.
        job: Settings.
        shift: Shift of the noise levels.
    """

    parts: Sequence[Part]
    mixes: Sequence[Mix]
    prompts: Prompts
    pairs: Sequence[Pair]
    denoiser: Denoiser
    layers: MapLayers
    job: Job
    shift: float


def teacher(number: int) -> str:
    """The adapter of a LoRA."""
    return f"part{number}"


def add_velocity_gradient(lesson: Lesson, step: int) -> float:
    """Add the gradient of L_fusion for one LoRA, and return this loss. The LoRAs take turns."""
    turn, count = step % len(lesson.parts), len(lesson.parts)
    mix, total = lesson.mixes[turn], 0.0
    for batch in draw(mix, lesson.prompts, step // count, lesson.job.examples.sigma, lesson.shift):
        x = interpolate(batch.latents, batch.noise, batch.sigma)
        with activate(lesson.denoiser.module, {teacher(turn): lesson.parts[turn].weight}), torch.no_grad():
            target = _velocity(lesson, batch, x)
        errors = (_velocity(lesson, batch, x) - target).square().flatten(1).mean(1)
        loss = errors.sum() / mix.batch_size
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def add_map_gradient(lesson: Lesson, step: int) -> float:
    """Add the gradient of the weighted L_attn on this step's pairs, and return L_attn without its weight."""
    distil, seed = lesson.job.distil, lesson.job.seed
    size = distil.pairs_size
    low, high = distil.map_sigma
    levels = low + (high - low) * torch.rand(size, generator=generator_for(seed, step, "pairs/sigma"))
    places = range(step * size, (step + 1) * size)
    total = 0.0
    for row, k in enumerate(shuffled(len(lesson.pairs), places, seed=seed, what="pairs")):
        generator = generator_for(seed, step, f"pairs/noise/{row}")
        loss = _pair_loss(lesson, lesson.pairs[k], levels[row : row + 1], generator) / size
        (distil.attention * loss).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def map_loss(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, prompt_embeds: Tensor, pair: Pair, layers: MapLayers
) -> Tensor:
    """Mean of (M - mask)^2 over subjects and tokens (eq. 7). Each map M is divided by its maximum, which is a
    constant to the gradient.

    x: (1, C, f, h, w), at noise level sigma (1,). prompt_embeds: (1, L, D).
    """
    maps = read_maps(
        denoiser, x, sigma, prompt_embeds, spans=pair.spans, real=pair.real, layers=layers, kind="token"
    )
    target = pair.targets(token_grid(denoiser, x)).to(maps)
    return (normalised(maps)[0] - target).square().mean()


@torch.no_grad()
def compare_maps(lesson: Lesson) -> tuple[float, float]:
    """The maps' error after training and in the base model, on a few pairs; says both.

    Noise levels and noise never change.
    """
    job, denoiser = lesson.job, lesson.denoiser
    low, high = job.distil.map_sigma
    levels = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
    errors = []
    for adapters in ({STUDENT: 1.0}, {}):
        losses = []
        for row, pair in enumerate(lesson.pairs[:CHECKED]):
            for level in levels:
                generator = generator_for(job.seed, row, "pairs/check")
                with activate(denoiser.module, adapters):
                    losses.append(float(_pair_loss(lesson, pair, torch.tensor([level]), generator)))
        errors.append(sum(losses) / len(losses))
    learnt, base = errors
    say(f"attention maps of {len(lesson.pairs[:CHECKED])} pairs: error {learnt:.3f}, base model {base:.3f}")
    if learnt >= base:
        say(
            "warning: the attention maps are worse than the base model's. Use a lower --optim.lr than "
            f"{job.distil.optim.lr:g}, or a lower --distil.attention than {job.distil.attention:g}"
        )
    return learnt, base


def _pair_loss(lesson: Lesson, pair: Pair, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """`map_loss` of a pair at a noise level, sigma (1,)."""
    latents, embeds = (half.unsqueeze(0) for half in load(pair.item, lesson.prompts.special))
    noise = torch.randn(latents.shape, generator=generator)
    x = interpolate(latents, noise, sigma)
    return map_loss(lesson.denoiser, x, sigma, embeds, pair, lesson.layers)


def _velocity(lesson: Lesson, batch: Batch, x: Tensor) -> Tensor:
    """The predicted velocity, float32 (B, C, f, h, w); in mixed precision on a GPU."""
    device = lesson.denoiser.device
    with torch.autocast(device.type, torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext():
        return lesson.denoiser(x.to(device), batch.sigma, batch.prompt_embeds).float()
