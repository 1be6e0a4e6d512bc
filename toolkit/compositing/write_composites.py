"""Writes composites: a clip with its json and masks, or a reference picture with its json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from toolkit.compositing.blending import Picture
from toolkit.compositing.output_folder import output_path
from toolkit.compositing.render import render
from toolkit.core.files import write_atomic
from toolkit.footage.clips import Clip, write_clip
from toolkit.footage.frame_spool import Spool
from toolkit.footage.masks import mask_path, write_mask
from toolkit.footage.video import write_video

Row = Mapping[str, Any]


def write_composite(row: Row, out: Path) -> Path:
    """Render the composite of a row and write it; its json is written last. Returns its path."""
    path = output_path(out, row)
    if row["kind"] == "references":
        _write_picture(row, path)
        return path
    background = row["background"]
    end = background["start"] + (row["num_frames"] - 1) / row["fps"]
    clip = Clip(
        path=path,
        text=row["text"],
        source=background["source"],
        start=background["start"],
        end=round(end, 6),
        fps=row["fps"],
        num_frames=row["num_frames"],
        width=row["width"],
        height=row["height"],
        shot=background["shot"],
        extra={"composite": dict(row)},
    )
    if row["kind"] == "mix":
        write_video(path, (frame.picture for frame in render(row)), row["fps"])
    else:
        clip.extra["masks"] = _write_with_masks(row, clip)
    write_clip(out, clip)
    return path


def _write_with_masks(row: Row, clip: Clip) -> dict[str, Any]:
    """Write a clip and the masks of its pasted characters; returns the mask records for its json."""
    with Spool() as alphas:

        def pictures() -> Iterator[Picture]:
            for number, frame in enumerate(render(row, masks=True)):
                for name, alpha in frame.alphas.items():
                    alphas.put((number, name), alpha)
                yield frame.picture

        write_video(clip.path, pictures(), clip.fps)
        records: dict[str, Any] = {}
        for name in [one["name"] for one in row["pasted"]]:
            path = mask_path(clip, name)
            write_mask(path, (alphas.get((number, name)) for number in range(clip.num_frames)), clip.fps)
            records[name] = {"file": path.name, "backend": "composite", "accepted": True, "reasons": []}
    return records


def _write_picture(row: Row, path: Path) -> None:
    from PIL import Image

    picture = next(render(row)).picture
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
    name = row["pasted"][0]["name"]
    known = {"name": name, "text": row["text"], "composite": dict(row)}
    write_atomic(path.with_suffix(".json"), json.dumps(known, ensure_ascii=False, indent=1) + "\n")
