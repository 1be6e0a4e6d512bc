"""What the recognisers learn from: drawn clips on disk, and the creatures that were followed through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.sandbox.recogniser import truth as data
from toolkit.sandbox.recogniser.networks import LOOK, READ, Recognisers, Vocabulary
from toolkit.sandbox.recogniser.recognise import cut_out
from toolkit.sandbox.recogniser.tracking import SEEN_AREA, Track, follow

SHARD = 500  # clips in a file
AGAIN = 3  # how often a redrawn clip comes for each time that a drawn one does: they are fewer
ALL = slice(None)


def answers(truth: data.Truth, known: Vocabulary) -> NDArray[np.int64]:
    """What is to be said of a clip, as indices of values: a row an actor, as in `Examples.answers`.

    -1 where there is none; the last row has the scene and its style.
    """
    rows = np.full((data.MOST + 1, len(READ) + 1), -1)
    for row, a in zip(rows, truth.actors, strict=False):
        said = {key: getattr(a.look, key) for key in LOOK} | {"style": a.style, "action": a.action}
        row[:] = [known.values[key].index(said[key]) for key in (*READ, "action")]
    place = {"scene": truth.scene, "scene_style": truth.scene_style}
    rows[-1, :2] = [known.values[key].index(value) for key, value in place.items()]
    return rows


class Drawn:
    """The clips of a folder, opened but not read: as they were drawn, and some as they were drawn again."""

    def __init__(self, folder: Path) -> None:
        self.clips = []
        for name, often in (("frames", 1), ("again", AGAIN)):
            for file in sorted(folder.glob(f"{name}-???.npy")):
                shard = int(file.stem[-3:])
                frames = np.load(file, mmap_mode="r")
                masks = np.load(folder / f"masks-{shard:03d}.npy", mmap_mode="r")
                said = np.load(folder / f"answers-{shard:03d}.npy")
                self.clips += often * [(frames, masks, i, said[i]) for i in range(len(frames))]

    def batch(self, picks: Sequence[int], times: NDArray[np.intp] | slice = ALL) -> tuple[Tensor, Tensor]:
        """Clips (N, F, 3, H, W) in -1..1 and masks (N, MOST, F, H, W) bool."""
        chosen = [self.clips[i] for i in picks]
        frames = np.stack([frames[i][times] for frames, _, i, _ in chosen])
        masks = np.stack([masks[i][:, times] for _, masks, i, _ in chosen])
        masks = np.unpackbits(masks, axis=-1, count=frames.shape[3])
        return data.to_tensor(frames), torch.from_numpy(masks).bool()


@dataclass(frozen=True)
class Examples:
    """What the other networks learn from: T creatures (crops as bytes) and the scenes of their K clips."""

    crops: Tensor  # (T, F, 4, CROP, CROP) uint8
    area: Tensor  # (T, F)
    geometry: Tensor  # (T, F, GEOMETRY)
    answers: Tensor  # (T, len(READ) + 1) indices of values, the action last
    empty: Tensor  # (K, 3, 4, H, W) uint8
    places: Tensor  # (K, 2) indices of scene and scene style


def to_bytes(values: Tensor) -> Tensor:
    """-1..1 -> 0..255."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round().byte()


def from_bytes(values: Tensor) -> Tensor:
    """Inverse of `to_bytes`."""
    return values.float() / 127.5 - 1


def matched(tracks: Sequence[Track], masks: Tensor) -> tuple[list[int], list[Track]]:
    """Which actors of masks (A, F, H, W) are to be seen, and their tracks.

    The true masks stand in for the track of who was not found, or not well.
    """
    actors, result = [], []
    for a, mask in enumerate(masks):
        area = mask.sum((1, 2)).float()
        if area.sum() < SEEN_AREA:
            continue
        both = [float((t.masks & mask).sum() / (t.masks | mask).sum()) for t in tracks]
        best = max(range(len(both)), key=both.__getitem__, default=-1)
        actors.append(a)
        result.append(tracks[best] if best >= 0 and both[best] > 0.5 else Track(mask, area))
    return actors, result


def examples(model: Recognisers, drawn: Drawn, picks: Sequence[int], g: torch.Generator) -> Examples:
    """Spoil some clips, follow their creatures as in earnest, and note what the truth says of them."""
    clips, masks = data.spoil(*drawn.batch(picks), g)
    truths = [drawn.clips[pick][3] for pick in picks]
    said, followed = [], []
    with torch.inference_mode():
        for tracks, mask, truth in zip(follow(model.finder, clips), masks, truths, strict=True):
            actors, real = matched(tracks, mask)
            followed.append(real)
            said.append(truth[actors])
        everything = cut_out(clips, followed)
    cut = torch.cat([to_bytes(s.crops) for s in everything if len(s.tracks)])
    area = torch.cat([s.area for s in everything])
    moves = torch.cat([s.geometry for s in everything if len(s.tracks)])
    empty = torch.stack([to_bytes(s.empty) for s in everything])
    places = torch.from_numpy(np.stack([truth[-1, :2] for truth in truths]))
    return Examples(cut, area, moves, torch.from_numpy(np.concatenate(said)), empty, places)
