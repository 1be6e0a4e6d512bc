"""Finds the videos to score, their prompts and the reference pictures of characters; shared types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.captions.cast import Cast
from toolkit.captions.grammar import CLAUSE_START, SCENE_TAG, TAG
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.footage.decoding import Frames
from toolkit.footage.video import probe

REFERENCE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Video:
    """A video and the JSON file beside it.

    Attributes:
        path: The mp4.
        file: Its path relative to the scored folder.
        prompt: The prompt that it was generated from, or the caption of a clip.
        facts: The content of the JSON file.
        size: Height and width in pixels.
        fingerprint: Of the video's content.
    """

    path: Path
    file: str
    prompt: str
    facts: Mapping[str, Any]
    size: tuple[int, int]
    fingerprint: str


@dataclass(frozen=True)
class Skipped:
    """A video, or one metric of a video, that could not be scored; `metric` is "" for the whole video."""

    file: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Measurement:
    """The result of one metric family for one video.

    Attributes:
        values: Scores by column; None if the metric does not apply to the prompt.
        problems: Columns that could not be measured, or only partly, each with the reason.
        note: A line shown in the report.
    """

    values: Mapping[str, float | None]
    problems: tuple[tuple[str, str], ...] = ()
    note: str = ""


ReadFrames = Callable[[], tuple[Frames, float]]
"""Decodes the video: returns frames (F, H, W, 3) and frames per second."""

Measure = Callable[[Video, ReadFrames], Measurement]
"""Measures one video. Raises CastmixError if no metric of the family can be measured."""

References = Mapping[str, tuple[Path, ...]]
"""Reference pictures, by character name."""


def find_videos(folder: Path) -> tuple[list[Video], list[Skipped]]:
    """Find all .mp4 files in a folder and its subfolders, or take one file.

    The JSON file of the same name beside each video has a `prompt` (as `castmix generate` writes it) or a
    `text` (as clips have). A video without it, or one that cannot be decoded, is skipped.

    Returns:
        Videos sorted by path, and the skipped ones.

    Raises:
        CastmixError: The folder does not exist or has no video.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CastmixError(f"{folder}: no such file or folder; expected the output of `castmix generate`")
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.mp4"))
    base = folder.parent if folder.is_file() else folder
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(base).parts)]
    if not paths:
        raise CastmixError(f"{folder}: no .mp4 file in it; expected the output of `castmix generate`")
    videos, skipped = [], []
    for path in paths:
        file = path.relative_to(base).as_posix()
        try:
            facts = _sidecar(path.with_suffix(".json"))
            info = probe(path)
        except CastmixError as error:
            skipped.append(Skipped(file, "", str(error)))
            continue
        prompt = str(facts.get("prompt") or facts.get("text"))
        videos.append(Video(path, file, prompt, facts, (info.height, info.width), fingerprint_file(path)))
    return videos, skipped


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CastmixError(f"it has no {path.name} with its prompt beside it") from None
    except (OSError, ValueError) as error:
        raise CastmixError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(facts, dict) or not (facts.get("prompt") or facts.get("text")):
        raise CastmixError(f"{path.name} has no prompt: expected an object with `prompt` or `text`")
    return facts


def plain_prompt(prompt: str) -> str:
    """A prompt without the grammar's tags, for CLIP and the judge: "Tom chases Jerry. cartoon style"."""
    text = CLAUSE_START.sub(r"\1 ", prompt)
    return SCENE_TAG.sub(r"\1 style", TAG.sub(r"\1", text))


def characters_in(prompt: str, cast: Cast) -> list[str]:
    """Cast characters named in a prompt, in order, without duplicates.

    Only tagged names count; in a prompt without tags, every name counts.
    """
    if tagged := TAG.findall(prompt):
        return [name for name in dict.fromkeys(tagged) if name in cast.names]
    found = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(cast.names, key=len, reverse=True)))})(?!\w)"
    )
    return list(dict.fromkeys(found.findall(prompt)))


def find_references(folder: Path | None, cast: Cast) -> References:
    """Reference pictures of the cast.

    Pictures in `folder` are named after characters, for Mr. Bean ``mr-bean-1.png`` or ``Mr. Bean 2.jpg``.
    They replace the cast's own pictures of these characters.

    Raises:
        CastmixError: The folder does not exist, or no picture in it is named after a character.
    """
    own = {one.name: one.references for show in cast.shows for one in show.characters if one.references}
    if folder is None:
        return own
    if not Path(folder).is_dir():
        raise CastmixError(f"--references {folder}: no such folder; expected pictures named after characters")
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in REFERENCE_SUFFIXES)
    found: dict[str, tuple[Path, ...]] = {}
    for name in sorted(cast.names, key=len, reverse=True):  # "Ice Bear" before "Ice"
        mine = tuple(path for path in files if re.match(rf"{_slug(name)}(?![a-z])", _slug(path.stem)))
        files = [path for path in files if path not in mine]
        if mine:
            found[name] = mine
    if not found:
        raise CastmixError(
            f"--references {folder}: no picture is named after a character; expected names like mimi-1.png"
        )
    return {**own, **found}


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
