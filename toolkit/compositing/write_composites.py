"""Writes composites: a clip with its json and masks, or a reference picture with its json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from toolkit.compositing.blending import Picture
from toolkit.compositing.output_folder import is_made, output_path
from toolkit.compositing.render import cached_fingerprint, check_parents, render
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, write_atomic
from toolkit.core.progress import track
from toolkit.footage.clips import Clip, write_clip
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.footage.masks import mask_path, write_mask
from toolkit.footage.video import write_video

Row = Mapping[str, Any]


def write_composites(rows: Sequence[Row], out: Path, made: list[Row], failed: list[dict[str, str]]) -> None:
    """Write the missing composites, several at a time. Adds each row to `made`, or its reason to `failed`."""
    fingerprint = cached_fingerprint(fingerprint_file)
    made += [row for row in rows if is_made(out, row)]
    there = {row["id"] for row in made}
    left = [row for row in rows if row["id"] not in there]

    def work(row: Row) -> tuple[Row, str | None]:
        try:
            check_parents(row, fingerprint)
            write_composite(row, out)
        except CastmixError as error:
            return row, str(error)
        return row, None

    # threads work in parallel: decoding, encoding and OpenCV release the interpreter lock
    pool = ThreadPoolExecutor(_workers())
    try:
        for row, error in track(pool.map(work, left), "composites", total=len(rows), start=len(made)):
            if error is None:
                made.append(row)
            else:
                failed.append({"id": row["id"], "as": "making", "reason": error})
    finally:
        pool.shutdown(cancel_futures=True)


def _workers() -> int:
    """Number of threads: the first number in OMP_NUM_THREADS, which may be a list, else up to 8."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return min(os.cpu_count() or 1, 8)
    first = text.partition(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise CastmixError(
            f"OMP_NUM_THREADS is {text!r}: expected a number of threads, such as 2: set it so, or unset it"
        )
    return int(first)


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
    with DiskArrays() as alphas:

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
