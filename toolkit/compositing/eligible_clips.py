"""Which clips can give a character and which can be a background, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from toolkit.captions.cast import Cast, Style
from toolkit.captions.grammar import MAX_CHARACTERS, Caption, parse
from toolkit.compositing.camera_motion import Floats, to_undo
from toolkit.compositing.clean_plates import image
from toolkit.compositing.clip_facts import Facts, Figure
from toolkit.compositing.measure_clips import Ground, clip_facts, no_ground, video_facts
from toolkit.compositing.merged_captions import names_in, without_place
from toolkit.compositing.standing import Standing, standing
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.footage.clips import Clip
from toolkit.footage.source_records import VIDEO_SUFFIXES, path_text

IMAGES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
BARE = 0.95
"""Share of a picture that must be seen without anybody in some frame, to make a plate of it."""


@dataclass(frozen=True)
class Choice:
    """Which clips are good enough, and how they are drawn.

    Attributes:
        area: Smallest and largest share of the picture that a character covers, in 9 of 10 frames.
        still: A camera whose way cannot be told counts as standing if it is slower, in picture heights a
            second; else the clip is not used.
        fastest: Clips with a faster camera are not used; a slower one's movement is compensated.
        unmasked: Use backgrounds whose characters have no masks, too. Who is pasted then stands before them,
            anywhere.
        three: Share of the composites with three characters; the others have two.
    """

    area: tuple[float, float] = (0.04, 0.4)
    still: float = 0.035
    fastest: float = 0.5
    unmasked: bool = False
    three: float = 0.2


@dataclass(frozen=True, eq=False)
class Front:
    """A character that can be cut out of a clip.

    `action` is what it does, without the place. `camera` is the movement to undo, if there is any. `cut` says
    that it reaches the bottom of its picture, `over` that it reaches the top.
    """

    clip: Clip
    name: str
    show: str
    style: Style
    action: str
    facts: Facts
    figure: Figure
    camera: Floats | None
    body: Standing
    cut: bool
    over: bool


@dataclass(frozen=True, eq=False)
class Back:
    """A background: a clip with its characters, a video or picture without any, or a clip's clean plate."""

    id: str
    path: Path
    form: Literal["video", "image", "plate"]
    style: Style
    fingerprint: str
    clip: Clip | None
    caption: Caption | None
    names: tuple[str, ...]
    shows: frozenset[str]
    facts: Facts | None
    camera: Floats | None

    @cached_property
    def people(self) -> dict[str, Standing]:
        """Those in a video whose masks are known, in all its frames."""
        if self.form != "video" or self.facts is None:
            return {}
        figures = self.facts.figures.items()
        return {name: standing(figure, self.facts, self.camera) for name, figure in figures}


Reasons = list[dict[str, str]]
"""Rows of rejected.jsonl: what was set aside, as what, and why."""


def look_through(
    found: Iterable[tuple[Path, Clip]], cast: Cast, choice: Choice, ground: Ground = no_ground
) -> tuple[list[Front], list[Back], Reasons]:
    """Sort clips, given with their folders, into foregrounds and backgrounds; a clip may be both."""
    fronts, backs, reasons = [], [], []
    for folder, clip in found:
        try:
            caption = _caption_of(clip, cast)
            facts = clip_facts(folder, clip, ground)
            camera = _movement(facts, choice)
        except CastmixError as error:
            reasons += [_row(clip.id, use, str(error)) for use in ("foreground", "background")]
            continue
        try:
            fronts.append(_front(clip, caption, facts, camera, cast, choice))
        except CastmixError as error:
            reasons.append(_row(clip.id, "foreground", str(error)))
        try:
            backs.append(_back(clip, caption, facts, camera, cast, choice))
        except CastmixError as error:
            reasons.append(_row(clip.id, "background", str(error)))
    return fronts, backs, reasons


def plates(backs: Sequence[Back], choice: Choice) -> list[Back]:
    """The clips of which a clean plate can be made: still camera, everybody masked, nearly all seen bare."""
    return [
        Back(b.id, b.path, "plate", b.style, b.fingerprint, b.clip, None, (), frozenset(), b.facts, None)
        for b in backs
        if b.facts and b.camera is None and set(b.names) == b.facts.figures.keys() and b.facts.bare >= BARE
    ]


def given_backgrounds(
    given: Sequence[Path], style: Style, out: Path, choice: Choice
) -> tuple[list[Back], Reasons]:
    """Backgrounds from pictures and videos that show nobody of the cast, and folders of them.

    Raises:
        CastmixError: A path that is not there, or a folder without pictures and videos.
    """
    backs, reasons = [], []
    for path in _find(given):
        try:
            if path.suffix.lower() in IMAGES:
                facts = camera = None
                image(path)
            else:
                facts = video_facts(out, path)
                camera = _movement(facts, choice)
        except CastmixError as error:
            reasons.append(_row(path_text(path), "background", str(error)))
            continue
        mark = facts.fingerprint if facts else fingerprint_file(path)
        form: Literal["video", "image"] = "video" if facts else "image"
        backs.append(Back(path.name, path, form, style, mark, None, None, (), frozenset(), facts, camera))
    return backs, reasons


def _movement(facts: Facts, choice: Choice) -> Floats | None:
    return to_undo(facts.camera, facts.height, facts.width, choice.still, choice.fastest)


def _caption_of(clip: Clip, cast: Cast) -> Caption:
    if "composite" in clip.extra:
        raise CastmixError("it is a composite itself")
    if not clip.text:
        raise CastmixError("it has no caption: write one with `castmix caption`")
    return parse(clip.text, cast)


def _front(
    clip: Clip, caption: Caption, facts: Facts, camera: Floats | None, cast: Cast, choice: Choice
) -> Front:
    """The one character of a clip, if its mask is good enough to be pasted."""
    names = names_in(caption)
    if len(names) != 1:
        raise CastmixError(f"it has {len(names)} characters, {', '.join(names)}: only one alone is cut out")
    name = names[0]
    if name not in facts.figures:
        raise CastmixError(f"no accepted mask of {name}: {_why_not(clip, name)}")
    figure = facts.figures[name]
    lost = int(np.isnan(figure.boxes[:, 0]).sum())
    if lost:
        raise CastmixError(f"{name} is lost in {lost} of {len(figure.boxes)} frames")
    least, most = np.percentile(figure.area, (10, 90))
    if least < choice.area[0] or most > choice.area[1]:
        raise CastmixError(
            f"{name} covers {least:.1%} to {most:.1%} of the picture, wanted {choice.area[0]:.0%} to "
            f"{choice.area[1]:.0%}: see --choice.area"
        )
    left, top, right, bottom = figure.touches
    for side, share in (("left", left), ("top", top if camera is not None else 0), ("right", right)):
        if share:  # where the camera is held still afterwards, the top border wanders
            raise CastmixError(f"{name} touches the {side} border in {share:.0%} of the frames")
    show = cast.find(name)[0]
    action = without_place(caption.clauses[0].action)
    return Front(
        clip,
        name,
        show.id,
        show.style,
        action,
        facts,
        figure,
        camera,
        standing(figure, facts, camera),
        bottom > 0,
        top > 0,
    )


def _back(
    clip: Clip, caption: Caption, facts: Facts, camera: Floats | None, cast: Cast, choice: Choice
) -> Back:
    """A clip as a background, with the characters that it has."""
    names = tuple(names_in(caption))
    if len(names) >= MAX_CHARACTERS:
        raise CastmixError(f"it has {len(names)} characters, and a caption no more than {MAX_CHARACTERS}")
    unknown = [name for name in names if name not in facts.figures]
    if unknown and not choice.unmasked:
        raise CastmixError(
            f"no accepted mask of {' and '.join(unknown)}, who could be hidden: "
            f"{_why_not(clip, unknown[0])}, or see --choice.unmasked"
        )
    shows = frozenset(cast.find(name)[0].id for name in names)
    mark = facts.fingerprint
    return Back(clip.id, clip.path, "video", caption.style, mark, clip, caption, names, shows, facts, camera)


def _why_not(clip: Clip, name: str) -> str:
    reasons = clip.extra.get("masks", {}).get(name, {}).get("reasons", [])
    return "; ".join(reasons) if reasons else "make one with `castmix segment`"


def _find(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, given):
        if not path.exists():
            raise CastmixError(f"{path} does not exist: give pictures, videos, or folders of them")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [
            f
            for f in inside
            if f.is_file() and f.suffix.lower() in IMAGES | VIDEO_SUFFIXES and f.name[0] != "."
        ]
        if not files:
            raise CastmixError(f"{path}: no picture or video in it")
        found += files
    return list(dict.fromkeys(found))


def _row(name: str, use: str, reason: str) -> dict[str, str]:
    return {"id": name, "as": use, "reason": reason}
