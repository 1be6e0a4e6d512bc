"""Draws the pretraining clips of the base model and stores latents, captions and labels in shards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.core.files import save_torch
from toolkit.core.progress import track
from toolkit.sandbox.base_model.linear_codec import LinearCodec, fit_linear
from toolkit.sandbox.world import paint, population
from toolkit.sandbox.world.actions import BASE_ACTIONS, ROLES
from toolkit.sandbox.world.shows import named_looks

SHARD = 1000  # clips per file
PIXEL_SHARDS = 5  # shards that also store pixels, for training the VAE; the DiT needs latents only
MAX_CREATURES = 3  # per clip
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "body": tuple(paint.BODIES),
    "colour": tuple(paint.COLOURS),
    "pattern": paint.PATTERNS,
    "accessory": paint.ACCESSORIES,
    "action": (*BASE_ACTIONS, *ROLES),
}


def token_labels(masks: NDArray[np.bool_], patch: int = 16) -> NDArray[np.uint8]:
    """Return the creature that each token of the DiT shows, (tokens,).

    0 is none, k is the k-th creature in the caption.
    A token covers `patch` x `patch` pixels of frame 0, or of four consecutive frames. It belongs to the
    creature with the largest coverage, if that is at least 0.2.

    masks: visible masks, (A, F, H, W).
    """
    a, f, h, w = masks.shape
    cells = masks.reshape(a, f, h // patch, patch, w // patch, patch).mean((3, 5), dtype=np.float32)
    rest = cells[:, 1:].reshape(a, (f - 1) // 4, 4, h // patch, w // patch).mean(2)
    covered = np.concatenate([cells[:, :1], rest], 1).reshape(a, -1)
    return np.where(covered.max(0) >= 0.2, covered.argmax(0) + 1, 0).astype(np.uint8)


def attribute_labels(scenario: population.Scenario) -> NDArray[np.int64]:
    """Return each creature's look and action as indices, (MAX_CREATURES, len(ATTRIBUTE_VALUES))."""
    rows = np.zeros((MAX_CREATURES, len(ATTRIBUTE_VALUES)), np.int64)
    for row, actor in zip(rows, scenario.actors, strict=False):
        facts = asdict(actor.look) | {"action": actor.action}
        row[:] = [values.index(facts[kind]) for kind, values in ATTRIBUTE_VALUES.items()]
    return rows


@dataclass(frozen=True)
class Latents:
    """Pretraining clips: latents (N, C, f, h, w) in float16, captions, and labels."""

    latents: Tensor
    captions: list[str]
    tokens: Tensor  # (N, tokens) uint8, `token_labels`
    attributes: Tensor  # (N, MAX_CREATURES, attributes), `attribute_labels`


def draw_shard(index: int, folder: Path) -> None:
    """Draw `SHARD` clips and store their latents, captions and labels.

    The linear codec that defines the latents is fitted on the first shard. The first `PIXEL_SHARDS` shards
    also store pixels.
    """
    looks = population.generic_looks(list(named_looks().values()))
    cast = population.pretraining_cast(looks)
    scenarios = [population.sample_scenario(index * SHARD + i, looks, cast) for i in range(SHARD)]
    drawn = [s.draw() for s in track(scenarios, f"drawing shard {index}")]
    frames = np.stack([picture for picture, _ in drawn])
    if not (folder / "codec.pt").exists():
        torch.save(asdict(fit_linear(frames, 48)), folder / "codec.pt")
    codec = load_codec(folder)
    if index < PIXEL_SHARDS:
        np.save(folder / f"pixels-{index:03d}.npy", frames)
    latents = torch.cat([codec.encode(torch.from_numpy(frames[i : i + 100])) for i in range(0, SHARD, 100)])
    shard = {
        "latents": latents.half(),
        "captions": [s.caption for s in scenarios],
        "tokens": torch.from_numpy(np.stack([token_labels(masks) for _, masks in drawn])),
        "attributes": torch.from_numpy(np.stack([attribute_labels(s) for s in scenarios])),
    }
    path = folder / f"latents-{index:03d}.pt"
    save_torch(shard, path)


def load_codec(folder: Path) -> LinearCodec:
    """Load the linear codec that `draw_shard` fitted on the first shard."""
    return LinearCodec(**torch.load(folder / "codec.pt", weights_only=True))


def load_latents(folder: Path) -> Latents:
    """Load the clips of all shards."""
    shards = [torch.load(p, weights_only=True) for p in sorted(folder.glob("latents-*.pt"))]
    return Latents(
        torch.cat([s["latents"] for s in shards]),
        [c for s in shards for c in s["captions"]],
        torch.cat([s["tokens"] for s in shards]),
        torch.cat([s["attributes"] for s in shards]),
    )
