"""Recognises the content of a sandbox clip: creatures, their actions and styles, the scene, the interaction.

Four small networks read pixels only; none of them sees a prompt.

1. A detector segments the creatures, which are then tracked through the clip (`tracking`).
2. A classifier predicts look and style of each creature from its masked crops, without the scene.
3. A classifier predicts its action from the changes of its crops and of its position.
4. A classifier predicts scene and scene style from frames in which all creatures are masked out.

A creature is a named character if all attributes of its look match; otherwise it is unknown. The interaction
follows from the actions and positions of the creatures (`interactions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolkit.core.errors import CastmixError
from toolkit.sandbox.recogniser.interactions import detect_interaction
from toolkit.sandbox.recogniser.networks import LOOK, Recognisers, Vocabulary
from toolkit.sandbox.recogniser.tracking import (
    Track,
    crop_track,
    estimate_camera,
    geometry_features,
    mask_boxes,
    track_creatures,
)
from toolkit.sandbox.recogniser.truth import to_tensor
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world.world import HEIGHT, WIDTH

WEIGHTS = Path(__file__).parent.parent / "recogniser.safetensors"
BATCH = 8  # clips per batch
FRAMES_PER_CREATURE = 6  # frames with the largest visible area, from which a creature's look is classified


@dataclass(frozen=True)
class ClassifierInputs:
    """The inputs of the three classifiers for one clip with T tracked creatures.

    Attributes:
        tracks: The creatures' tracks.
        crops: Masked crops, (T, F, 4, CROP_SIZE, CROP_SIZE); the last channel is the mask.
        area: Visible area in pixels, (T, F).
        geometry: Position features, (T, F, GEOMETRY_SIZE); see `tracking.geometry_features`.
        empty: Three frames with all creatures masked out, (3, 4, H, W); the last channel is that mask.
    """

    tracks: list[Track]
    crops: Tensor
    area: Tensor
    geometry: Tensor
    empty: Tensor


def classifier_inputs(clips: Tensor, followed: Sequence[list[Track]]) -> list[ClassifierInputs]:
    """Compute the classifiers' inputs of clips (N, F, 3, H, W) from the tracks of each clip."""
    f, _, h, w = clips.shape[1:]
    nothing = torch.zeros(1, f, h, w, dtype=torch.bool)
    covered = torch.stack(
        [torch.cat([nothing, *(t.masks[None] for t in tracks)]).any(0) for tracks in followed]
    )
    hidden = functional.max_pool2d(covered.float(), 5, 1, 2)
    moves = estimate_camera(clips, hidden == 0)
    chosen = torch.linspace(0, f - 1, 3).round().long()
    hole = hidden[:, chosen, None]
    empty = torch.cat([clips[:, chosen] * (1 - hole), hole], 2)
    return [
        ClassifierInputs(
            tracks,
            torch.stack([crop_track(clips[i], t) for t in tracks]) if tracks else torch.zeros(0, f, 4, 1, 1),
            torch.stack([t.area for t in tracks]) if tracks else torch.zeros(0, f),
            geometry_features(tracks, moves[i]),
            empty[i],
        )
        for i, tracks in enumerate(followed)
    ]


def classify_looks(model: Recognisers, crops: Tensor, area: Tensor) -> dict[str, Tensor]:
    """Return logits (T, values) of body, colour, pattern, accessory and style, averaged over frames.

    Args:
        model: The recognisers.
        crops: Masked crops, (T, F, 4, CROP_SIZE, CROP_SIZE).
        area: Visible area, (T, F). Frames are weighted by it.
    """
    t, f = area.shape
    weight = (area / area.sum(1, keepdim=True).clamp(min=1))[..., None]
    logits = model.reader(crops.flatten(0, 1))
    return {key: (value.unflatten(0, (t, f)) * weight).sum(1) for key, value in logits.items()}


def halve_crops(crops: Tensor) -> Tensor:
    """Downscale crops (T, F, 4, CROP_SIZE, CROP_SIZE) by two, as the action classifier takes them."""
    half = functional.avg_pool2d(crops.flatten(0, 1), 2)
    return half.view(*crops.shape[:3], *half.shape[2:])


def _classify_creatures(model: Recognisers, seen: Sequence[ClassifierInputs]) -> Iterator[Creature]:
    """Yield the predictions for all creatures of all clips, in order."""
    everything = [s for s in seen if len(s.crops)]
    if not everything:
        return
    cut, area = torch.cat([s.crops for s in everything]), torch.cat([s.area for s in everything])
    large, clear = area.topk(min(FRAMES_PER_CREATURE, area.shape[1]))
    chances = classify_looks(model, cut[torch.arange(len(cut))[:, None], clear], large)
    chances["action"] = model.mover(halve_crops(cut), torch.cat([s.geometry for s in everything]))
    tracks = [t for s in everything for t in s.tracks]
    best = {key: logits.softmax(-1).max(-1) for key, logits in chances.items()}
    known = model.vocabulary
    for i, track in enumerate(tracks):
        value = {key: known.values[key][int(b.indices[i])] for key, b in best.items()}
        sure = {key: float(b.values[i]) for key, b in best.items()}
        who = known.who([value[key] for key in LOOK])
        sure["who"] = prod(sure[key] for key in LOOK)
        yield Creature(who, **value, confidence=sure, boxes=mask_boxes(track.masks).numpy())


def recognise_many(model: Recognisers, clips: Sequence[NDArray[np.uint8]]) -> list[Verdict]:
    """Recognise the content of clips, uint8 (F, 64, 96, 3) each, with the same F.

    Raises:
        CastmixError: The frames do not have the sandbox's size, or the clips differ in length.
    """
    for clip in clips:
        if clip.ndim != 4 or clip.shape[1:] != (HEIGHT, WIDTH, 3) or len(clip) != len(clips[0]):
            raise CastmixError(
                f"the recognisers need clips of equal length and {HEIGHT}x{WIDTH} pixels, "
                f"(F, {HEIGHT}, {WIDTH}, 3), got {clip.shape}: resize and trim the videos first"
            )
    verdicts = []
    for start in range(0, len(clips), BATCH):
        with torch.inference_mode():
            pixels = to_tensor(np.stack(clips[start : start + BATCH]))
            seen = classifier_inputs(pixels, track_creatures(model.finder, pixels))
            creatures = _classify_creatures(model, seen)
            empty = torch.stack([s.empty for s in seen])
            places = model.place(empty.flatten(0, 1))
            where = {k: v.unflatten(0, empty.shape[:2]).mean(1).argmax(1) for k, v in places.items()}
            for i, one in enumerate(seen):
                there = tuple(next(creatures) for _ in one.tracks)
                value = {key: model.vocabulary.values[key][int(best[i])] for key, best in where.items()}
                verdicts.append(Verdict(there, **value, interaction=detect_interaction(there)))
    return verdicts


def recognise(model: Recognisers, frames: NDArray[np.uint8]) -> Verdict:
    """Recognise the content of one clip, uint8 (F, 64, 96, 3). See `recognise_many` for several clips."""
    return recognise_many(model, [frames])[0]


def load_recognisers(path: Path = WEIGHTS) -> Recognisers:
    """Load the recognisers, by default those that ship with the sandbox.

    Raises:
        CastmixError: The weights are missing.
    """
    from safetensors import safe_open

    if not path.exists():
        raise CastmixError(
            f"{path} is missing: create the recognisers with `castmix sandbox pretrain --part recogniser`"
        )
    with safe_open(path, "pt") as file:
        model = Recognisers(Vocabulary.from_json(file.metadata()["vocabulary"]))
        names = file.keys()
        model.load_state_dict({name: file.get_tensor(name).float() for name in names})
    return model.eval()
