"""Draws the clips that the sandbox base is pretrained on; keeps latents, captions and labels in shards."""

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

SHARD = 1000
PIXEL_SHARDS = 5  # as many clips as the VAE needs; the DiT learns from latents alone
MOST = 3  # creatures in a clip
KINDS: dict[str, tuple[str, ...]] = {
    "body": tuple(paint.BODIES),
    "colour": tuple(paint.COLOURS),
    "pattern": paint.PATTERNS,
    "accessory": paint.ACCESSORIES,
    "action": (*BASE_ACTIONS, *ROLES),
}


def token_labels(masks: NDArray[np.bool_], patch: int = 16) -> NDArray[np.uint8]:
    """Which creature each of the DiT's tokens shows, (tokens,): 0 nobody, k the k-th one of the caption.

    masks: visible parts (A, F, H, W). A token covers `patch` x `patch` pixels of frame 0, or of four frames;
    it belongs to the creature that covers most of it, if that is a fifth or more.
    """
    a, f, h, w = masks.shape
    cells = masks.reshape(a, f, h // patch, patch, w // patch, patch).mean((3, 5), dtype=np.float32)
    rest = cells[:, 1:].reshape(a, (f - 1) // 4, 4, h // patch, w // patch).mean(2)
    covered = np.concatenate([cells[:, :1], rest], 1).reshape(a, -1)
    return np.where(covered.max(0) >= 0.2, covered.argmax(0) + 1, 0).astype(np.uint8)


def attribute_labels(scenario: population.Scenario) -> NDArray[np.int64]:
    """What each creature of a clip is and does, (MOST, kinds), as indices into `KINDS`."""
    rows = np.zeros((MOST, len(KINDS)), np.int64)
    for row, actor in zip(rows, scenario.actors, strict=False):
        facts = asdict(actor.look) | {"action": actor.action}
        row[:] = [values.index(facts[kind]) for kind, values in KINDS.items()]
    return rows


@dataclass(frozen=True)
class Latents:
    """Pretraining clips: latents (N, C, f, h, w) in 16 bits, captions, and what every token shows."""

    latents: Tensor
    captions: list[str]
    tokens: Tensor  # (N, tokens) uint8, `token_labels`
    attributes: Tensor  # (N, MOST, kinds), `attribute_labels`


def draw_shard(index: int, folder: Path) -> None:
    """Draw one thousand clips; keep their latents, captions and labels.

    The first shard also defines the latents; of the first few, pixels are kept too.
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
    """The latents' definition that `draw_shard` fitted on the first shard."""
    return LinearCodec(**torch.load(folder / "codec.pt", weights_only=True))


def load_latents(folder: Path) -> Latents:
    """The clips of all shards."""
    shards = [torch.load(p, weights_only=True) for p in sorted(folder.glob("latents-*.pt"))]
    return Latents(
        torch.cat([s["latents"] for s in shards]),
        [c for s in shards for c in s["captions"]],
        torch.cat([s["tokens"] for s in shards]),
        torch.cat([s["attributes"] for s in shards]),
    )
