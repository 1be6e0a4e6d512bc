"""Draws the clips that the sandbox base is pretrained on; keeps them as latents and captions, in shards."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit.progress import track
from toolkit.sandbox import world
from toolkit.sandbox.codec import LinearCodec, fit_linear
from toolkit.sandbox.shows import named_looks

SHARD = 1000
PIXEL_SHARDS = 4  # as many clips as the VAE needs; the DiT learns from latents alone


def draw_shard(index: int, folder: Path) -> None:
    """Draw one thousand clips; keep their latents and captions.

    The first shard also defines the latents; of the first few, pixels are kept too.
    """
    looks = world.generic_looks(list(named_looks().values()))
    cast = world.base_cast(looks)
    scenarios = [world.generic_scenario(index * SHARD + i, looks, cast) for i in range(SHARD)]
    frames = np.stack([s.draw() for s in track(scenarios, f"drawing shard {index}")])
    if index == 0:
        torch.save(asdict(fit_linear(frames, 48)), folder / "codec.pt")
    codec = load_codec(folder)
    if index < PIXEL_SHARDS:
        np.save(folder / f"pixels-{index:03d}.npy", frames)
    latents = torch.cat([codec.encode(torch.from_numpy(frames[i : i + 100])) for i in range(0, SHARD, 100)])
    path = folder / f"latents-{index:03d}.pt"
    torch.save((latents.half(), [s.caption for s in scenarios]), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_codec(folder: Path) -> LinearCodec:
    """The latents' definition that `draw_shard` fitted on the first shard."""
    return LinearCodec(**torch.load(folder / "codec.pt", weights_only=True))


def load_latents(folder: Path) -> tuple[Tensor, list[str]]:
    """Latents (N, C, f, h, w) and captions of all shards."""
    shards = [torch.load(p, weights_only=True) for p in sorted(folder.glob("latents-*.pt"))]
    return torch.cat([latents for latents, _ in shards]), [c for _, captions in shards for c in captions]
