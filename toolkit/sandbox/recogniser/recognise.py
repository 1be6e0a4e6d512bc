"""Who is in a clip, what each does and in which style each is drawn; where, and what they do together.

Four small networks read pixels and nothing else. One finds the creatures, which are then followed through
the clip (`recognise_follow`). What each one is, and its style, is read off its own masked crops, so that the
scene has no say in it; what it does, off how its crops and places change; the scene and its style, off what
is left when all creatures are greyed out. Who somebody is follows from what it looks like: whoever lacks one
attribute of a named character is nobody. What creatures do together follows from the roles that they play.
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
from toolkit.sandbox.recogniser.interactions import together
from toolkit.sandbox.recogniser.networks import LOOK, Recognisers, Vocabulary
from toolkit.sandbox.recogniser.tracking import Track, boxes, camera, crops, follow, geometry
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world.world import HEIGHT, WIDTH

WEIGHTS = Path(__file__).parent.parent / "recogniser.safetensors"
BATCH = 8  # clips at once
CLEAREST = 6  # looks are read in the frames that show most of a creature


@dataclass(frozen=True)
class Seen:
    """What is left of a clip once its T creatures are followed: all that the other networks get.

    crops (T, F, 4, CROP, CROP), area (T, F) in pixels, geometry (T, F, GEOMETRY), empty (3, 4, H, W): three
    frames without creatures, and where those had been.
    """

    tracks: list[Track]
    crops: Tensor
    area: Tensor
    geometry: Tensor
    empty: Tensor


def cut_out(clips: Tensor, followed: Sequence[list[Track]]) -> list[Seen]:
    """Cut the creatures that were followed through each of the clips (N, F, 3, H, W) out of them."""
    f, _, h, w = clips.shape[1:]
    nothing = torch.zeros(1, f, h, w, dtype=torch.bool)
    covered = torch.stack(
        [torch.cat([nothing, *(t.masks[None] for t in tracks)]).any(0) for tracks in followed]
    )
    hidden = functional.max_pool2d(covered.float(), 5, 1, 2)
    moves = camera(clips, hidden == 0)
    chosen = torch.linspace(0, f - 1, 3).round().long()
    hole = hidden[:, chosen, None]
    empty = torch.cat([clips[:, chosen] * (1 - hole), hole], 2)
    return [
        Seen(
            tracks,
            torch.stack([crops(clips[i], t) for t in tracks]) if tracks else torch.zeros(0, f, 4, 1, 1),
            torch.stack([t.area for t in tracks]) if tracks else torch.zeros(0, f),
            geometry(tracks, moves[i]),
            empty[i],
        )
        for i, tracks in enumerate(followed)
    ]


def read_looks(model: Recognisers, crops: Tensor, area: Tensor) -> dict[str, Tensor]:
    """Logits (T, values) of body, colour, pattern, accessory and style; the more is seen, the more it counts.

    crops (T, F, 4, CROP, CROP), area (T, F).
    """
    t, f = area.shape
    weight = (area / area.sum(1, keepdim=True).clamp(min=1))[..., None]
    logits = model.reader(crops.flatten(0, 1))
    return {key: (value.unflatten(0, (t, f)) * weight).sum(1) for key, value in logits.items()}


def small(crops: Tensor) -> Tensor:
    """Crops (T, F, 4, CROP, CROP) at half their size, as the mover watches them."""
    half = functional.avg_pool2d(crops.flatten(0, 1), 2)
    return half.view(*crops.shape[:3], *half.shape[2:])


def _creatures(model: Recognisers, seen: Sequence[Seen]) -> Iterator[Creature]:
    """Every creature of every clip, in order."""
    everything = [s for s in seen if len(s.crops)]
    if not everything:
        return
    cut, area = torch.cat([s.crops for s in everything]), torch.cat([s.area for s in everything])
    large, clear = area.topk(min(CLEAREST, area.shape[1]))
    chances = read_looks(model, cut[torch.arange(len(cut))[:, None], clear], large)
    chances["action"] = model.mover(small(cut), torch.cat([s.geometry for s in everything]))
    tracks = [t for s in everything for t in s.tracks]
    best = {key: logits.softmax(-1).max(-1) for key, logits in chances.items()}
    known = model.vocabulary
    for i, track in enumerate(tracks):
        value = {key: known.values[key][int(b.indices[i])] for key, b in best.items()}
        sure = {key: float(b.values[i]) for key, b in best.items()}
        who = known.who([value[key] for key in LOOK])
        sure["who"] = prod(sure[key] for key in LOOK)
        yield Creature(who, **value, confidence=sure, boxes=boxes(track.masks).numpy())


def recognise_many(model: Recognisers, clips: Sequence[NDArray[np.uint8]]) -> list[Verdict]:
    """Judge clips, each (F, 64, 96, 3), all of the same number of frames.

    Raises:
        CastmixError: Frames have another size than the sandbox's, or the clips are not equally long.
    """
    for clip in clips:
        if clip.ndim != 4 or clip.shape[1:] != (HEIGHT, WIDTH, 3) or len(clip) != len(clips[0]):
            raise CastmixError(
                f"the recognisers read equally long clips of {HEIGHT}x{WIDTH} (F, {HEIGHT}, {WIDTH}, 3), "
                f"got {clip.shape}: scale and cut the videos first"
            )
    verdicts = []
    for start in range(0, len(clips), BATCH):
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(clips[start : start + BATCH]))
            pixels = batch.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
            seen = cut_out(pixels, follow(model.finder, pixels))
            creatures = _creatures(model, seen)
            empty = torch.stack([s.empty for s in seen])
            places = model.place(empty.flatten(0, 1))
            where = {k: v.unflatten(0, empty.shape[:2]).mean(1).argmax(1) for k, v in places.items()}
            for i, one in enumerate(seen):
                there = tuple(next(creatures) for _ in one.tracks)
                value = {key: model.vocabulary.values[key][int(best[i])] for key, best in where.items()}
                verdicts.append(Verdict(there, **value, interaction=together(there)))
    return verdicts


def recognise(model: Recognisers, frames: NDArray[np.uint8]) -> Verdict:
    """Judge one clip (F, 64, 96, 3); see `recognise_many`, which is faster."""
    return recognise_many(model, [frames])[0]


def load_recognisers(path: Path = WEIGHTS) -> Recognisers:
    """The recognisers that ship with the sandbox.

    Raises:
        CastmixError: Their weights are not there.
    """
    from safetensors import safe_open

    if not path.exists():
        raise CastmixError(
            f"no recognisers at {path}: make them with `castmix sandbox pretrain --part recogniser`"
        )
    with safe_open(path, "pt") as file:
        model = Recognisers(Vocabulary.from_json(file.metadata()["vocabulary"]))
        names = file.keys()
        model.load_state_dict({name: file.get_tensor(name).float() for name in names})
    return model.eval()
