"""Detector "given": boxes and points written by hand.

A file of prompts has one JSON object per line:

    {"file_name": "clips/e1_s000_w000.mp4", "character": "Pixo", "frame": 0, "box": [12, 8, 40, 60]}
    {"file_name": "clips/e1_s000_w001.mp4", "character": "Mimi", "frame": 4, "points": [[30, 20, true]]}

`box` is left, top, right, bottom. A point is x, y, and whether it is on the character. All are in pixels of
the clip. If two rows name the same character of the same clip, the last one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from toolkit.captions.cast import Cast, Character
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.segmentation.interfaces import Detect, Options, Prompt

KEYS = ("file_name", "character", "frame", "box", "points", "score")


def manual_detector(options: Options) -> Detect:
    """A detector that returns the prompts of the file `options.prompts`.

    Raises:
        CastmixError: There is no file, or it is not valid. The detector raises it if a prompt is outside its
            clip.
    """
    if options.prompts is None:
        raise CastmixError("the detector 'given' needs a file of boxes and points: name it with --prompts")
    rows = read_prompts(options.prompts, options.cast)

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        mine = {name: prompt for (stem, name), prompt in rows.items() if stem == clip.id}
        found = {one.name: mine[one.name] for one in characters if one.name in mine}
        for name, prompt in found.items():
            _check(prompt, clip, f"{options.prompts}: {name} in {clip.path.name}")
        return found

    return detect


def read_prompts(path: Path, cast: Cast) -> dict[tuple[str, str], Prompt]:
    """Read a file of prompts: prompts by clip id and canonical name of the character.

    Raises:
        CastmixError: The file cannot be read, or a row is not valid.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CastmixError(f"{path}: cannot be read as prompts: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}: line {number}"
            row = _parse_row(line, where)
            name = cast.find(str(row["character"]))[1].name
            found[PurePath(str(row["file_name"])).stem, name] = _prompt(row, where)
    return found


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CastmixError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict) or not row.get("file_name") or not row.get("character"):
        raise CastmixError(f"{where}: expected file_name, character, frame, and box or points; got {row!r}")
    if unknown := sorted(set(row) - set(KEYS)):
        raise CastmixError(f"{where}: unknown key {unknown[0]!r}: the keys are {', '.join(KEYS)}")
    return row


def _prompt(row: dict[str, Any], where: str) -> Prompt:
    box, points = row.get("box"), row.get("points") or []
    if box is None and not points:
        raise CastmixError(f"{where}: give a box, points, or both")
    if type(row.get("frame")) is not int:
        raise CastmixError(f"{where}: frame must be a whole number from 0, got {row.get('frame')!r}")
    if box is not None and not _are_numbers(box, 4):
        raise CastmixError(f"{where}: box must be four numbers, left, top, right, bottom; got {box!r}")
    marks = points if isinstance(points, list) else [points]
    for point in marks:
        if not isinstance(point, list) or not _are_numbers(point[:2], 2) or point[2:] not in ([], [0], [1]):
            raise CastmixError(f"{where}: a point must be x, y and true or false; got {point!r}")
    return Prompt(
        row["frame"],
        (float(box[0]), float(box[1]), float(box[2]), float(box[3])) if box else None,
        tuple((float(mark[0]), float(mark[1]), bool(mark[2:] != [0])) for mark in marks),
        float(row.get("score", 1.0)),
    )


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )


def _check(prompt: Prompt, clip: Clip, where: str) -> None:
    if not 0 <= prompt.frame < clip.num_frames:
        raise CastmixError(f"{where}: frame is {prompt.frame}, expected 0 to {clip.num_frames - 1}")
    size = f"the clip is {clip.width}x{clip.height}"
    if prompt.box is not None:
        left, top, right, bottom = prompt.box
        if not (left < right and top < bottom and right > 0 and bottom > 0) or not (
            left < clip.width and top < clip.height
        ):
            raise CastmixError(f"{where}: box {list(prompt.box)} is empty or outside the picture, {size}")
    for x, y, _ in prompt.points:
        if not (0 <= x < clip.width and 0 <= y < clip.height):
            raise CastmixError(f"{where}: the point {x:g}, {y:g} is outside the picture, {size}")
    if prompt.box is None and not any(is_positive for *_, is_positive in prompt.points):
        raise CastmixError(f"{where}: without a box, at least one point must be on the character (true)")
