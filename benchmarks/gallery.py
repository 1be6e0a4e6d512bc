"""A picture of a study: the same prompts, three frames each, arm beside arm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from benchmarks.place import SCORES, Workplace
from benchmarks.study import Study
from toolkit.core.files import write_atomic

FRAMES = (4, 9, 15)
"""Not the first: the sandbox's base blurs it."""
COLOURS = 128
GAP, LINE = 8, 15


def draw_gallery(study: Study, place: Workplace, path: Path) -> bool:
    """Write a PNG with a row for each of the study's `shown` prompts and a column for each arm, at seed 0.

    Returns False, and writes nothing, where a cell or its videos are missing.
    """
    wanted = study.pictured or tuple(study.arms)
    cells = [cell for cell in study.cells() if cell.seed == 0 and cell.arm in wanted]
    folders = {cell.arm: place.folder(study, cell) for cell in cells if place.is_done(study, cell)}
    if not study.shown or len(folders) < len(wanted):
        return False
    columns: dict[str, list[Path | None]] = {}
    texts: dict[str, str] = {}
    for arm, folder in folders.items():
        prompts = json.loads((folder / SCORES).read_text())["prompts"]
        videos = dict(zip(prompts, sorted((folder / "videos").rglob("*.mp4")), strict=False))
        columns[arm] = [videos.get(prompt) for prompt in study.shown]
        texts |= prompts
    if any(video is None for column in columns.values() for video in column):
        return False
    write_atomic(
        path,
        _sheet(
            {arm: [*filter(None, videos)] for arm, videos in columns.items()},
            [texts[prompt] for prompt in study.shown],
        ),
    )
    return True


def _sheet(columns: Mapping[str, Sequence[Path]], texts: Sequence[str]) -> bytes:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from toolkit.footage.video import read_video

    strips = {
        arm: [np.concatenate([read_video(video)[0][k] for k in FRAMES], 1) for video in videos]
        for arm, videos in columns.items()
    }
    height, width = next(iter(strips.values()))[0].shape[:2]
    row = LINE + height + GAP
    size = (len(strips) * (width + GAP) - GAP, LINE + len(texts) * row)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, (arm, pictures) in enumerate(strips.items()):
        left = column * (width + GAP)
        pen.text((left, 0), arm, fill="black", font=font)
        for k, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (left, 2 * LINE + k * row))
    for k, text in enumerate(texts):
        pen.text((0, LINE + k * row), text, fill="dimgrey", font=font)
    buffer = BytesIO()
    sheet.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
