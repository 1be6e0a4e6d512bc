"""Videos to be scored: a file, the prompt that it was made from, and what a measurement of it is."""

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

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Video:
    """A video and its sidecar.

    Attributes:
        path: The mp4.
        file: Its name below the folder that is scored.
        prompt: What it should show.
        facts: All that the sidecar says.
        size: Height and width in pixels.
        fingerprint: Of the file's content.
    """

    path: Path
    file: str
    prompt: str
    facts: Mapping[str, Any]
    size: tuple[int, int]
    fingerprint: str


@dataclass(frozen=True)
class SetAside:
    """What could not be scored, and why. `metric` is "" for a whole video."""

    file: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Measured:
    """What one family of metrics says of one video.

    Attributes:
        values: By column; None where the prompt asks for nothing of the kind.
        problems: Columns that could not be measured (or not completely), and why.
        note: A line for the person who looks at the report.
    """

    values: Mapping[str, float | None]
    problems: tuple[tuple[str, str], ...] = ()
    note: str = ""


Footage = Callable[[], tuple[Frames, float]]
"""Decodes the video when it is asked: frames (F, H, W, 3) and frames a second."""

Measure = Callable[[Video, Footage], Measured]
"""Raises CastmixError where nothing of the family can be measured."""


References = Mapping[str, tuple[Path, ...]]
"""Pictures of characters, by name."""


def find_videos(folder: Path) -> tuple[list[Video], list[SetAside]]:
    """All .mp4 files of a folder and those in it, by name, with the JSON file of the same name beside each.

    A sidecar has a `prompt`, as `castmix generate` writes it, or a `text`, as clips have; a video without one
    is set aside, and so is one that cannot be decoded.

    Raises:
        CastmixError: There is no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CastmixError(f"{folder}: no such file or folder; expected one that `castmix generate` wrote")
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.mp4"))
    base = folder.parent if folder.is_file() else folder
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(base).parts)]
    if not paths:
        raise CastmixError(f"{folder}: no .mp4 file in it; expected a folder as `castmix generate` writes it")
    videos, without = [], []
    for path in paths:
        file = path.relative_to(base).as_posix()
        try:
            facts = _sidecar(path.with_suffix(".json"))
            info = probe(path)
        except CastmixError as error:
            without.append(SetAside(file, "", str(error)))
            continue
        prompt = str(facts.get("prompt") or facts.get("text"))
        videos.append(Video(path, file, prompt, facts, (info.height, info.width), fingerprint_file(path)))
    return videos, without


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CastmixError(f"no {path.name} beside it says what it should show") from None
    except (OSError, ValueError) as error:
        raise CastmixError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(facts, dict) or not (facts.get("prompt") or facts.get("text")):
        raise CastmixError(f"{path.name} has no prompt")
    return facts


def plain(prompt: str) -> str:
    """A prompt in words that models of the web know: without tags, "Tom chases Jerry. cartoon style"."""
    text = CLAUSE_START.sub(r"\1 ", prompt)
    return SCENE_TAG.sub(r"\1 style", TAG.sub(r"\1", text))


def characters(prompt: str, cast: Cast) -> list[str]:
    """Who is named in a prompt: by tags, or, where there is none, in words. In their order, each once."""
    if tagged := TAG.findall(prompt):
        return [name for name in dict.fromkeys(tagged) if name in cast.names]
    found = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(cast.names, key=len, reverse=True)))})(?!\w)"
    )
    return list(dict.fromkeys(found.findall(prompt)))


def find_references(folder: Path | None, cast: Cast) -> References:
    """Pictures of the cast: those of its own, and over them those in a folder, named after characters.

    For Mr. Bean that is ``mr-bean-1.png`` or ``Mr. Bean 2.jpg``.

    Raises:
        CastmixError: No such folder, or no picture of anybody in it.
    """
    own = {who.name: who.references for show in cast.shows for who in show.characters if who.references}
    if folder is None:
        return own
    if not Path(folder).is_dir():
        raise CastmixError(f"--references {folder}: no such folder; expected pictures named after characters")
    files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)
    found: dict[str, tuple[Path, ...]] = {}
    for name in sorted(cast.names, key=len, reverse=True):  # "Ice Bear" before "Ice"
        mine = tuple(path for path in files if re.match(rf"{_slug(name)}(?![a-z])", _slug(path.stem)))
        files = [path for path in files if path not in mine]
        if mine:
            found[name] = mine
    if not found:
        raise CastmixError(f"--references {folder}: no picture named after a character, as mimi-1.png is")
    return {**own, **found}


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-")
