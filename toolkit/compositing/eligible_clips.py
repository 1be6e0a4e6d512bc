"""Selects the clips that can give a foreground character and the clips that can be a background.

A clip may be both. Each rejected clip gets a reason in rejected.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from toolkit.captions.cast import Cast, Style
from toolkit.captions.grammar import MAX_CHARACTERS, Caption, parse
from toolkit.compositing.camera_motion import Floats, motion_to_compensate
from toolkit.compositing.character_track import CharacterTrack, character_track
from toolkit.compositing.clip_facts import Facts, MaskFacts
from toolkit.compositing.measure_clips import (
    GroundLine,
    facts_of_clip,
    unknown_ground_line,
)
from toolkit.compositing.merged_captions import names_in, without_place
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip

MIN_UNCOVERED = 0.95
"""A clean plate needs this share of the pixels uncovered in at least one frame."""


@dataclass(frozen=True)
class Choice:
    """Which clips are good enough, and how they are sampled.

    Attributes:
        area: Smallest and largest share of the picture that a character may cover; 10th and 90th percentile
            over the frames.
        still: A camera whose motion cannot be estimated counts as static below this speed, in picture
            heights per second. Above it the clip is rejected.
        fastest: Clips with a faster camera are rejected, in picture heights per second. A slower camera is
            compensated.
        unmasked: Also use backgrounds whose characters have no masks. The pasted character then stands in
            front of them and may hide them.
        three: Share of the composites with three characters. The others have two.
    """

    area: tuple[float, float] = (0.04, 0.4)
    still: float = 0.035
    fastest: float = 0.5
    unmasked: bool = False
    three: float = 0.2


@dataclass(frozen=True, eq=False)
class Foreground:
    """A clip whose one character can be cut out.

    Attributes:
        clip: The clip.
        name: The character's name.
        show: Id of the character's show.
        style: Style of that show.
        action: What the character does, without the place.
        facts: Facts about the clip.
        mask: Facts about the character's mask.
        camera: (F, 4), the camera motion to remove; None if the camera is static.
        track: The character's position over time, without the camera motion.
        cropped_bottom: Whether the bottom edge of the picture crops the character.
        cropped_top: Whether the top edge does.
    """

    clip: Clip
    name: str
    show: str
    style: Style
    action: str
    facts: Facts
    mask: MaskFacts
    camera: Floats | None
    track: CharacterTrack
    cropped_bottom: bool
    cropped_top: bool


@dataclass(frozen=True, eq=False)
class Background:
    """A background: a clip with its characters, a video or picture without any, or a clip's clean plate.

    Attributes:
        id: Id of the clip, or the name of the file.
        path: The video or picture.
        form: How it is used. A "plate" is made from the clip at `path`.
        style: Style of the scene.
        fingerprint: Of the file's content.
        clip: The clip, None for a file given by the user.
        caption: The clip's caption, None if nobody is in the background.
        names: Characters in the background.
        shows: Ids of their shows.
        facts: Facts about the video, None for a picture.
        camera: (F, 4), the camera motion to follow; None if the camera is static.
    """

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
    def tracks(self) -> dict[str, CharacterTrack]:
        """Tracks of the characters with masks, by name, over all frames; {} unless it is a video."""
        if self.form != "video" or self.facts is None:
            return {}
        masks = self.facts.masks.items()
        return {name: character_track(mask, self.facts, self.camera) for name, mask in masks}


Rejections = list[dict[str, str]]
"""Rows of rejected.jsonl: `id` of what is rejected, `as` what it was to be used, and the `reason`."""


def select_clips(
    found: Iterable[tuple[Path, Clip]],
    cast: Cast,
    choice: Choice,
    ground: GroundLine = unknown_ground_line,
) -> tuple[list[Foreground], list[Background], Rejections]:
    """Sort clips, given as (folder, clip), into foregrounds, backgrounds and rejections."""
    foregrounds, backgrounds, rejected = [], [], []
    for folder, clip in found:
        try:
            caption = _parsed_caption(clip, cast)
            facts = facts_of_clip(folder, clip, ground)
            camera = camera_of(facts, choice)
        except CastmixError as error:
            rejected += [rejection(clip.id, use, str(error)) for use in ("foreground", "background")]
            continue
        try:
            foregrounds.append(_foreground(clip, caption, facts, camera, cast, choice))
        except CastmixError as error:
            rejected.append(rejection(clip.id, "foreground", str(error)))
        try:
            backgrounds.append(_background(clip, caption, facts, camera, cast, choice))
        except CastmixError as error:
            rejected.append(rejection(clip.id, "background", str(error)))
    return foregrounds, backgrounds, rejected


def clean_plate_backgrounds(backgrounds: Sequence[Background]) -> list[Background]:
    """The clips from which a clean plate can be made.

    Their camera is static, all their characters have masks, and almost every pixel is uncovered once.
    """
    return [
        Background(
            b.id, b.path, "plate", b.style, b.fingerprint, b.clip, None, (), frozenset(), b.facts, None
        )
        for b in backgrounds
        if b.facts
        and b.camera is None
        and set(b.names) == b.facts.masks.keys()
        and b.facts.uncovered >= MIN_UNCOVERED
    ]


def rejection(name: str, use: str, reason: str) -> dict[str, str]:
    """A row of rejected.jsonl; `use` is "foreground", "background", "composite" or "making"."""
    return {"id": name, "as": use, "reason": reason}


def camera_of(facts: Facts, choice: Choice) -> Floats | None:
    """The camera motion (F, 4) to compensate; None if the camera is static. Raises CastmixError."""
    return motion_to_compensate(facts.camera, facts.height, facts.width, choice.still, choice.fastest)


def _parsed_caption(clip: Clip, cast: Cast) -> Caption:
    if "composite" in clip.extra:
        raise CastmixError("the clip is a composite itself")
    if not clip.text:
        raise CastmixError("the clip has no caption: write one with `castmix caption`")
    return parse(clip.text, cast)


def _foreground(
    clip: Clip, caption: Caption, facts: Facts, camera: Floats | None, cast: Cast, choice: Choice
) -> Foreground:
    """The only character of a clip, if its mask is good enough to cut it out."""
    names = names_in(caption)
    if len(names) != 1:
        raise CastmixError(f"the clip has {len(names)} characters, {', '.join(names)}; expected exactly one")
    name = names[0]
    if name not in facts.masks:
        raise CastmixError(f"no accepted mask of {name}: {_why_no_mask(clip, name)}")
    mask = facts.masks[name]
    _check_mask(name, mask, camera is not None, choice)
    _, top, _, bottom = mask.touches
    show = cast.find(name)[0]
    action = without_place(caption.clauses[0].action)
    track = character_track(mask, facts, camera)
    return Foreground(
        clip, name, show.id, show.style, action, facts, mask, camera, track, bottom > 0, top > 0
    )


def _check_mask(name: str, mask: MaskFacts, is_camera_moving: bool, choice: Choice) -> None:
    """Raise CastmixError if a mask is not good enough to cut its character out."""
    lost = int(np.isnan(mask.boxes[:, 0]).sum())
    if lost:
        raise CastmixError(f"{name} has no mask in {lost} of {len(mask.boxes)} frames")
    least, most = np.percentile(mask.area, (10, 90))
    if least < choice.area[0] or most > choice.area[1]:
        raise CastmixError(
            f"{name} covers {least:.1%} to {most:.1%} of the picture, expected {choice.area[0]:.0%} to "
            f"{choice.area[1]:.0%} (--choice.area)"
        )
    left, top, right, _ = mask.touches
    # after compensating a moving camera, the top edge of the picture moves as well
    for side, share in (("left", left), ("top", top if is_camera_moving else 0), ("right", right)):
        if share:
            raise CastmixError(f"{name} touches the {side} edge of the picture in {share:.0%} of the frames")


def _background(
    clip: Clip, caption: Caption, facts: Facts, camera: Floats | None, cast: Cast, choice: Choice
) -> Background:
    """A clip as a background, with its characters."""
    names = tuple(names_in(caption))
    if len(names) >= MAX_CHARACTERS:
        raise CastmixError(
            f"the clip has {len(names)} characters already; a caption names at most {MAX_CHARACTERS}"
        )
    unmasked = [name for name in names if name not in facts.masks]
    if unmasked and not choice.unmasked:
        raise CastmixError(
            f"no accepted mask of {' and '.join(unmasked)}, who could be hidden: "
            f"{_why_no_mask(clip, unmasked[0])}, or allow it with --choice.unmasked"
        )
    shows = frozenset(cast.find(name)[0].id for name in names)
    mark = facts.fingerprint
    return Background(
        clip.id, clip.path, "video", caption.style, mark, clip, caption, names, shows, facts, camera
    )


def _why_no_mask(clip: Clip, name: str) -> str:
    reasons = clip.extra.get("masks", {}).get(name, {}).get("reasons", [])
    return "; ".join(reasons) if reasons else "make one with `castmix segment`"
