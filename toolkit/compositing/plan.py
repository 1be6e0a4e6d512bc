"""The plan: rows that say all of a composite. A row is enough to make it, bit for bit.

Row number i is drawn from (seed, i) alone: a longer plan begins with the shorter one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.compositing.blending import Edge
from toolkit.compositing.camera_motion import Floats
from toolkit.compositing.eligible_clips import Back, Front
from toolkit.compositing.merged_captions import compose
from toolkit.compositing.pairing import TOTALS, Meetings
from toolkit.compositing.placement import Newcomer, Place, Stand, find_place, visible
from toolkit.compositing.standing import Standing
from toolkit.core.files import fingerprint_text
from toolkit.footage.source_records import path_text

TRIES = 40
"""Draws of clips for a row's first character before another takes its place."""
CHOICES = 4
"""Draws that found a place, of which a mix takes the one that costs least. Many would take the same few clips
again and again, and variety teaches more than room does."""
FAIR = 5
"""A clip that was drawn so often and never found a place is named."""
SHORTEST = 5
"""Frames that a composite must have."""

Line = dict[str, Any]
"""A row of plan.jsonl."""


def make_rows(
    numbers: Iterable[int], meetings: Meetings, *, three: float, place: Place, edge: Edge, seed: int
) -> tuple[list[Line], list[dict[str, str]]]:
    """The rows of these numbers; and those, and clips, for which no place was found, with the reason."""
    rows, reasons = [], []
    drawn: Counter[str] = Counter()
    placed: Counter[str] = Counter()
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        for name in map(str, rng.permutation(meetings.names)):
            found: list[Placing] = []
            for _ in range(TRIES):
                fronts, back = meetings.draw(name, rng, three)
                drawn.update(front.clip.id for front in fronts)
                if placing := _place(meetings.kind, fronts, back, place, rng):
                    placed.update(front.clip.id for front in fronts)
                    found.append(placing)
                if len(found) == (CHOICES if meetings.kind == "mix" else 1):
                    break
            if found:
                about = {"kind": meetings.kind, "seed": seed, "index": number}
                row = about | _row(min(found, key=lambda one: one.cost)) | {"edge": asdict(edge)}
                rows.append({"id": f"{meetings.kind}-{number:05d}-{_digest(row)}"} | row)
                break
        else:
            reason = f"nobody found room in {TRIES} draws each: see --place.overlap and --place.height"
            reasons.append({"id": f"{meetings.kind}-{number:05d}", "as": "composite", "reason": reason})
    for clip, times in sorted(drawn.items()):
        if times >= FAIR and not placed[clip]:
            reason = f"found no room in any of {times} draws: it moves too far, or is too large or too short"
            reasons.append({"id": clip, "as": "foreground", "reason": reason})
    return rows, reasons


@dataclass(frozen=True, eq=False)
class Placing:
    """Clips of a row, and where their characters stand, in pixels of the background's first frame.

    Attributes:
        fronts: Who is pasted.
        back: On what.
        fps, height, width: Of the composite.
        times: Seconds of its frames.
        starts: Seconds into its clip at which each of `fronts` begins.
        stands: Where each of `fronts` stands.
        there: Those of the background whose masks are known.
    """

    fronts: Sequence[Front]
    back: Back
    fps: float
    height: int
    width: int
    times: Floats
    starts: Sequence[float]
    stands: Sequence[Stand]
    there: Mapping[str, Standing]

    @property
    def cost(self) -> float:
        """How far its worst place is from a good one."""
        return max((stand.cost for stand in self.stands), default=0.0)


def _place(
    kind: str, fronts: Sequence[Front], back: Back, place: Place, rng: np.random.Generator
) -> Placing | None:
    """Where everybody stands; None where it cannot be: no room, too short, too few characters."""
    names = [one.name for one in fronts] + [*back.names]
    if len(names) < min(TOTALS[kind]):  # type: ignore[index]
        return None
    still = kind == "references"
    fps, count, height, width = _shape(fronts, back)
    if not still and count < SHORTEST:
        return None
    times = np.zeros(1) if still else np.arange(count) / fps
    views = visible(_camera(back, times), len(times), height, width)
    there = {name: body.at(back.facts.at(times)) for name, body in back.people.items() if back.facts}
    stands: list[Stand] = []
    starts: list[float] = []
    for front in fronts:
        start = float(front.facts.times[rng.integers(len(front.body.boxes))]) if still else 0.0
        facts = front.facts
        body = front.body.at(facts.at(times + start))
        who = Newcomer(body, facts.width, facts.height, front.cut, front.over)
        overlap = float(rng.uniform(0, place.overlap)) if kind == "pairs" and stands else 0.0
        others = [*there.values(), *(stand.there for stand in stands)]
        stand = find_place(who, others, views, place, overlap, rng)
        if stand is None:
            return None
        stands.append(stand)
        starts.append(start)
    return Placing(fronts, back, fps, height, width, times, starts, stands, there)


def _row(placing: Placing) -> Line:
    """All that is said of a composite, but for its id."""
    fronts, back, times = placing.fronts, placing.back, placing.times
    stands = {front.name: stand for front, stand in zip(fronts, placing.stands, strict=True)}
    everybody = {**placing.there, **{name: stand.there for name, stand in stands.items()}}
    cut = {front.name for front in fronts if front.cut}
    depth = {name: np.inf if name in cut else one.foot for name, one in everybody.items()}
    order = sorted(everybody, key=lambda name: (depth[name], name in stands))
    actions = {one.name: one.action for one in fronts}
    return {
        "text": compose(back.style, back.caption, actions, _left_to_right(back, everybody, placing.width)),
        "style": back.style,
        "fps": placing.fps,
        "num_frames": len(times),
        "height": placing.height,
        "width": placing.width,
        "background": _background(back, order, stands, _numbers(_camera(back, times))),
        "pasted": [
            _pasted(front, stands[front.name], start, times)
            for front, start in zip(fronts, placing.starts, strict=True)
        ],
        "order": order,
    }


def _camera(back: Back, times: Floats) -> Floats | None:
    """How the background's camera moves, (F, 4), where that is to be followed."""
    return None if back.camera is None or back.facts is None else back.camera[back.facts.at(times)]


def _shape(fronts: Sequence[Front], back: Back) -> tuple[float, int, int, int]:
    """Frames a second, number of frames (4k+1, as Wan's VAE takes them), height and width of a composite."""
    first = fronts[0].clip
    fps = back.clip.fps if back.clip and back.form == "video" else first.fps
    shape = back.clip if back.clip else first
    seconds = [one.facts.seconds for one in fronts]
    if back.form == "video" and back.facts:
        seconds.append(back.facts.seconds)
    count = int(min(seconds) * fps + 1e-3)
    return fps, (count - 1) // 4 * 4 + 1, shape.height, shape.width


def _pasted(front: Front, stand: Stand, start: float, times: Floats) -> Line:
    camera = None if front.camera is None else front.camera[front.facts.at(times + start)]
    return {
        "name": front.name,
        "show": front.show,
        "clip": front.clip.id,
        "path": _whole(front.clip.path),
        "fingerprint": front.facts.fingerprint,
        "mask": {"path": _whole(front.figure.path), "fingerprint": front.figure.fingerprint},
        "height": front.facts.height,
        "width": front.facts.width,
        "start": start,
        "scale": stand.scale,
        "dx": stand.dx,
        "dy": stand.dy,
        "flip": stand.flip,
        "foot": round(front.body.foot, 2),
        "camera": _numbers(camera),
    }


def _background(
    back: Back, order: Sequence[str], pasted: Iterable[str], camera: list[list[float]] | None
) -> Line:
    """What is to be known of the background; only masks that are needed to make the composite."""
    figures = back.facts.figures if back.facts else {}
    rearmost = min(order.index(name) for name in pasted)
    needed = [n for n in figures if back.form == "plate" or n in order[rearmost:]]
    return {
        "form": back.form,
        "clip": back.clip.id if back.clip else None,
        "path": _whole(back.path),
        "fingerprint": back.fingerprint,
        "names": list(back.names),
        "source": back.clip.source if back.clip else path_text(back.path),
        "start": back.clip.start if back.clip else 0.0,
        "shot": back.clip.shot if back.clip else 0,
        "masks": {
            name: {"path": _whole(figures[name].path), "fingerprint": figures[name].fingerprint}
            for name in needed
        },
        "camera": camera,
    }


def _left_to_right(back: Back, everybody: dict[str, Standing], width: int) -> list[str]:
    """Everybody's names, left to right. Where the background's people have no masks, they stay together."""
    middle = {
        name: float(np.nanmean((one.boxes[:, 0] + one.boxes[:, 2]) / 2))
        if np.isfinite(one.boxes[:, 0]).any()
        else width / 2
        for name, one in everybody.items()
    }
    there = [clause.name for clause in back.caption.clauses] if back.caption else []
    new = sorted((name for name in middle if name not in back.names), key=lambda name: middle[name])
    if all(name in middle for name in there):
        return sorted([*there, *new], key=lambda name: middle[name])
    left = [name for name in new if middle[name] < width / 2]
    return [*left, *there, *(name for name in new if name not in left)]


def _numbers(path: Floats | None) -> list[list[float]] | None:
    return None if path is None else [[float(value) for value in row] for row in path]


def _whole(path: Path) -> str:
    """A path as it is from wherever the plan is gone on with."""
    return path_text(path.absolute())


def _digest(row: Line) -> str:
    """A short name of all that a row says, wherever its files lie."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items() if key not in ("path", "source")}
        return [bare(inner) for inner in value] if isinstance(value, list) else value

    return fingerprint_text(json.dumps(bare(row), sort_keys=True))[:6]
