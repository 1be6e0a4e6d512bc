"""Training data of the recognisers: labelled clips on disk, and crops of the creatures tracked in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.models.pixels import to_bytes
from toolkit.sandbox.recogniser import truth as data
from toolkit.sandbox.recogniser.networks import ATTRIBUTES, LOOK, Recognisers, Vocabulary
from toolkit.sandbox.recogniser.recognise import classifier_inputs
from toolkit.sandbox.recogniser.tracking import MIN_AREA, Track, track_creatures

SHARD = 500  # clips per file
REDRAWN_REPEATS = 3  # how often each clip redrawn by the VAE is repeated, as there are fewer of them
ALL_FRAMES = slice(None)


def clip_labels(truth: data.LabelledClip, known: Vocabulary) -> NDArray[np.int64]:
    """Return a clip's labels as indices of values, (MAX_CREATURES + 1, len(ATTRIBUTES) + 1).

    There is one row per actor, as in `Examples.answers`. The last row holds scene and scene style. Unused
    entries are -1.
    """
    rows = np.full((data.MAX_CREATURES + 1, len(ATTRIBUTES) + 1), -1)
    for row, a in zip(rows, truth.actors, strict=False):
        said = {key: getattr(a.look, key) for key in LOOK} | {"style": a.style, "action": a.action}
        row[:] = [known.values[key].index(said[key]) for key in (*ATTRIBUTES, "action")]
    place = {"scene": truth.scene, "scene_style": truth.scene_style}
    rows[-1, :2] = [known.values[key].index(value) for key, value in place.items()]
    return rows


class ClipDataset:
    """The clips of a folder as memory maps: the drawn clips, and some redrawn by the VAE."""

    def __init__(self, folder: Path) -> None:
        self.clips = []
        for name, often in (("frames", 1), ("again", REDRAWN_REPEATS)):
            for file in sorted(folder.glob(f"{name}-???.npy")):
                shard = int(file.stem[-3:])
                frames = np.load(file, mmap_mode="r")
                masks = np.load(folder / f"masks-{shard:03d}.npy", mmap_mode="r")
                said = np.load(folder / f"answers-{shard:03d}.npy")
                self.clips += often * [(frames, masks, i, said[i]) for i in range(len(frames))]

    def batch(
        self, picks: Sequence[int], times: NDArray[np.intp] | slice = ALL_FRAMES
    ) -> tuple[Tensor, Tensor]:
        """Return clips (N, F, 3, H, W) in [-1, 1] and masks (N, MAX_CREATURES, F, H, W) bool."""
        chosen = [self.clips[i] for i in picks]
        frames = np.stack([frames[i][times] for frames, _, i, _ in chosen])
        masks = np.stack([masks[i][:, times] for _, masks, i, _ in chosen])
        masks = np.unpackbits(masks, axis=-1, count=frames.shape[3])
        return data.to_tensor(frames), torch.from_numpy(masks).bool()


@dataclass(frozen=True)
class Examples:
    """Training data of the classifiers: T creatures, and the scenes of K clips."""

    crops: Tensor  # (T, F, 4, CROP_SIZE, CROP_SIZE) uint8
    area: Tensor  # (T, F) visible pixels
    geometry: Tensor  # (T, F, GEOMETRY_SIZE)
    answers: Tensor  # (T, len(ATTRIBUTES) + 1) labels as indices of values, the action last
    empty: Tensor  # (K, 3, 4, H, W) uint8, frames with the creatures masked out
    places: Tensor  # (K, 2) labels of scene and scene style


def match_tracks(tracks: Sequence[Track], masks: Tensor) -> tuple[list[int], list[Track]]:
    """Return the indices of the visible actors of masks (A, F, H, W), and a track for each.

    An actor without a track of IoU above 0.5 gets a track made from its true mask.
    """
    actors, result = [], []
    for a, mask in enumerate(masks):
        area = mask.sum((1, 2)).float()
        if area.sum() < MIN_AREA:
            continue
        both = [float((t.masks & mask).sum() / (t.masks | mask).sum()) for t in tracks]
        best = max(range(len(both)), key=both.__getitem__, default=-1)
        actors.append(a)
        result.append(tracks[best] if best >= 0 and both[best] > 0.5 else Track(mask, area))
    return actors, result


def make_examples(
    model: Recognisers, dataset: ClipDataset, picks: Sequence[int], g: torch.Generator
) -> Examples:
    """Corrupt the clips `picks`, track their creatures as at inference, and label the tracks."""
    clips, masks = data.corrupt(*dataset.batch(picks), g)
    truths = [dataset.clips[pick][3] for pick in picks]
    said, followed = [], []
    with torch.inference_mode():
        for tracks, mask, truth in zip(track_creatures(model.finder, clips), masks, truths, strict=True):
            actors, real = match_tracks(tracks, mask)
            followed.append(real)
            said.append(truth[actors])
        everything = classifier_inputs(clips, followed)
    cut = torch.cat([to_bytes(s.crops) for s in everything if len(s.tracks)])
    area = torch.cat([s.area for s in everything])
    moves = torch.cat([s.geometry for s in everything if len(s.tracks)])
    empty = torch.stack([to_bytes(s.empty) for s in everything])
    places = torch.from_numpy(np.stack([truth[-1, :2] for truth in truths]))
    return Examples(cut, area, moves, torch.from_numpy(np.concatenate(said)), empty, places)
