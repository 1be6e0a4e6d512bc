"""Backgrounds from pictures and videos that the user gives with --backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from toolkit.captions.cast import Style
from toolkit.compositing.clean_plates import read_image
from toolkit.compositing.eligible_clips import Background, Choice, Rejections, camera_of, rejection
from toolkit.compositing.measure_clips import facts_of_video
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.footage.source_records import IMAGE_SUFFIXES, VIDEO_SUFFIXES, path_text


def backgrounds_from_files(
    paths: Sequence[Path], style: Style, out: Path, choice: Choice
) -> tuple[list[Background], Rejections]:
    """Backgrounds from pictures and videos without cast characters, and from folders of them.

    Raises:
        CastmixError: A path does not exist, or a folder has no pictures and videos.
    """
    backgrounds, rejected = [], []
    for path in _find_files(paths):
        try:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                facts = camera = None
                read_image(path)
            else:
                facts = facts_of_video(out, path)
                camera = camera_of(facts, choice)
        except CastmixError as error:
            rejected.append(rejection(path_text(path), "background", str(error)))
            continue
        mark = facts.fingerprint if facts else fingerprint_file(path)
        form: Literal["video", "image"] = "video" if facts else "image"
        backgrounds.append(
            Background(path.name, path, form, style, mark, None, None, (), frozenset(), facts, camera)
        )
    return backgrounds, rejected


def _find_files(paths: Sequence[Path]) -> list[Path]:
    """All pictures and videos among files and folders, without duplicates."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise CastmixError(f"{path} does not exist: give pictures, videos, or folders of them")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        files = [f for f in inside if f.is_file() and f.suffix.lower() in suffixes and f.name[0] != "."]
        if not files:
            raise CastmixError(f"{path} contains no picture or video: give files with a known suffix")
        found += files
    return list(dict.fromkeys(found))
