"""What the recognisers learn from: drawn clips on disk, and the creatures that were followed through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.sandbox import recogniser_data as data
from toolkit.sandbox import world
from toolkit.sandbox.recognise import cut_out
from toolkit.sandbox.recognise_follow import SEEN_AREA, Track, follow
from toolkit.sandbox.recognise_nets import LOOK, READ, Recognisers, Vocabulary

SHARD = 500  # clips in a file
ALL = slice(None)


class Drawn:
    """The clips of a folder, opened but not read: as they were drawn, and those that were drawn again."""

    def __init__(self, folder: Path) -> None:
        self.clips = []
        for name in ("frames", "again"):
            for file in sorted(folder.glob(f"{name}-???.npy")):
                shard = int(file.stem[-3:])
                frames = np.load(file, mmap_mode="r")
                masks = np.load(folder / f"masks-{shard:03d}.npy", mmap_mode="r")
                self.clips += [
                    (frames, masks, i, data.TRAINING + shard * SHARD + i) for i in range(len(frames))
                ]

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


def answers(truth: data.Truth, known: Vocabulary) -> tuple[list[list[int]], list[int]]:
    """What is to be said of each actor (see `Examples.answers`), and of the place."""
    values = known.values
    actors = [
        [values[key].index(str(getattr(a.look if key in LOOK else a, key))) for key in (*READ, "action")]
        for a in truth.actors
    ]
    return actors, [values["scene"].index(truth.scene), values["scene_style"].index(truth.scene_style)]


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


def examples(
    model: Recognisers,
    drawn: Drawn,
    picks: Sequence[int],
    named: Mapping[str, world.Look],
    g: torch.Generator,
) -> Examples:
    """Spoil some clips, follow their creatures as in earnest, and note what the truth says of them."""
    clips, masks = data.spoil(*drawn.batch(picks), g)
    said, places = [], []
    with torch.inference_mode():
        followed = []
        for tracks, mask, pick in zip(follow(model.finder, clips), masks, picks, strict=True):
            actors, place = answers(data.truth(drawn.clips[pick][3], named), model.vocabulary)
            there, real = matched(tracks, mask[: len(actors)])
            followed.append(real)
            said += [actors[a] for a in there]
            places.append(place)
        everything = cut_out(clips, followed)
    cut = torch.cat([to_bytes(s.crops) for s in everything if len(s.tracks)])
    area = torch.cat([s.area for s in everything])
    moves = torch.cat([s.geometry for s in everything if len(s.tracks)])
    empty = torch.stack([to_bytes(s.empty) for s in everything])
    return Examples(cut, area, moves, torch.tensor(said), empty, torch.tensor(places))
