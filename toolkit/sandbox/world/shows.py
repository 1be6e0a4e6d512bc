"""Draws episodes of the sandbox's shows as mp4 files, with their ground truth beside them.

An episode has a title card, hard cuts between shots of one to three characters, and subtitles burnt into a
black band below the picture (`--crop 0,0,16,0` removes it). The files beside ``x.mp4`` are:

- ``x.truth.json``: shots, actions and interactions of the characters, camera, boxes
- ``x.masks.npz``: the mask of every character in every frame, as packed bits
- ``x.captions.jsonl``: captions, read by the captioner "sidecar"
- ``x.srt``: subtitles
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import Character, Show, Style, read_cast
from toolkit.captions.grammar import Caption, Clause, format
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import track
from toolkit.footage.video import write_video
from toolkit.sandbox.world import scenery, world
from toolkit.sandbox.world.actions import ACTIONS, BASE_ACTIONS, INTERACTIONS, find_interaction
from toolkit.sandbox.world.population import sample_camera

HEIGHT, WIDTH, BAND = 128, 192, 16
FPS = 24.0
TITLE_SECONDS = 1.5
BAND_CROP = (0, 0, BAND, 0)
SAYINGS = ("And off we go.", "Is anyone there?", "What a day!", "")


def named_looks() -> dict[str, world.Look]:
    """Return the looks of the sandbox shows' characters, which never occur in pretraining."""
    shows = [s for s in read_cast().shows if s.source == "sandbox"]
    return {c.name: world.look_of(c.look) for s in shows for c in s.characters}


@dataclass(frozen=True)
class Shot:
    """The plan of one shot. `actors` are ordered from left to right."""

    seconds: float
    scene: str
    actors: tuple[world.Actor, ...]
    subtitle: str
    camera: world.Camera = world.STATIC_CAMERA
    prop: str = ""

    def caption(self, style: Style) -> Caption:
        """Return the shot's caption. The place is part of the first character's action."""
        clauses = [Clause(a.name, a.action) for a in self.actors]
        where = "on the beach" if self.scene == "beach" else f"in the {self.scene}"
        where += f" by the {self.prop}" if self.prop else ""
        clauses[0] = Clause(clauses[0].name, f"{clauses[0].action} {where}")
        return Caption(tuple(clauses), style)


def sample_solo_action(character: Character, rng: np.random.Generator) -> str:
    """Sample a solo action: the character's signature or gait (60 %), otherwise a shared action."""
    own = [a for a in (character.signature, character.gait) if a in ACTIONS]
    if own and rng.random() < 0.6:
        return str(rng.choice(own))
    return str(rng.choice(list(BASE_ACTIONS)))


def sample_roles(count: int, rng: np.random.Generator) -> list[str]:
    """Sample the actions of an interaction of two or three characters, in the order of the characters."""
    name = str(rng.choice(list(INTERACTIONS)))
    pair = list(INTERACTIONS[name])
    return pair if count == 2 else ["chases", *pair] if name == "chase" else [*pair, "stands still"]


def plan_shot(
    show: Show, characters: Sequence[Character], index: int, avoid: str, rng: np.random.Generator
) -> Shot:
    """Plan a shot of one to three characters. Half of the shots with several have an interaction.

    Args:
        show: The show; gives style, scenes and props.
        characters: The characters that may occur.
        index: Index of the shot; the first character is ``characters[index % len(characters)]``.
        avoid: Scene of the shot before, which is not used again.
        rng: Random generator.

    An interaction is played once, therefore its shot is short.
    """
    scenes = [s for s in (show.scenes or scenery.SCENES) if s != avoid]
    scene = scenes[int(rng.integers(len(scenes)))]
    cast = [characters[index % len(characters)]]
    others = [c for c in characters if c is not cast[0]]
    count = min(int(rng.choice([0, 1, 2], p=[0.6, 0.28, 0.12])), len(others))
    cast += [others[int(k)] for k in rng.permutation(len(others))[:count]]
    cast = [cast[int(k)] for k in rng.permutation(len(cast))]
    playing = count > 0 and rng.random() < 0.5
    doing = sample_roles(len(cast), rng) if playing else [sample_solo_action(c, rng) for c in cast]
    actors = [
        world.Actor(world.look_of(c.look), action, show.style, 0.0, name=c.name)
        for c, action in zip(cast, doing, strict=True)
    ]
    lines = [*(f"{c.name}, look at that!" for c in cast), *SAYINGS]
    subtitle = lines[int(rng.integers(len(lines)))]
    seconds = 2.3 if playing else float(rng.choice([4.5, 6.6]))
    camera = world.STATIC_CAMERA if playing else sample_camera(rng, 0.15)
    prop = str(rng.choice(show.props)) if show.props and rng.random() < 0.2 else ""
    placed = world.arrange(actors, rng)
    return Shot(seconds, scene, placed, subtitle, camera, prop)


def _text(width: int, height: int, text: str, size: int) -> NDArray[np.uint8]:
    """Draw white text at the centre of a black picture (height, width, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, height))
    ImageDraw.Draw(picture).text(
        (width / 2, height / 2), text, fill="white", font=ImageFont.load_default(size), anchor="mm"
    )
    return np.asarray(picture)


def _boxes(masks: NDArray[np.bool_]) -> list[list[int] | None]:
    """Return the boxes [left, top, right, bottom) of a mask (F, H, W), None in frames where it is empty."""
    boxes: list[list[int] | None] = []
    for mask in masks:
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1] if len(xs) else None)
    return boxes


def draw_shot(shot: Shot, style: Style) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a shot: frames with subtitle (F, H + BAND, W, 3) and visible masks (actors, F, H, W)."""
    times = np.arange(round(shot.seconds * FPS), dtype=np.float32) / np.float32(FPS)
    picture, masks = world.draw(
        shot.actors,
        shot.scene,
        style,
        seconds=times,
        height=HEIGHT,
        width=WIDTH,
        camera=shot.camera,
        prop=shot.prop,
    )
    band = np.repeat(_text(WIDTH, BAND, shot.subtitle, 11)[None], len(times), 0)
    return np.concatenate([picture, band], 1), masks


def _clock(seconds: float) -> str:
    """Format a time as in .srt files: 00:00:01,500."""
    whole, thousandth = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandth:03d}"


def draw_episode(show: Show, characters: Sequence[Character], path: Path, *, shots: int, seed: int) -> None:
    """Draw one episode and its ground truth. The mp4 is written last: if it exists, all files exist."""
    rng = np.random.default_rng(seed)
    title = _text(WIDTH, HEIGHT + BAND, show.name, 22)
    frames = [np.repeat(title[None], round(TITLE_SECONDS * FPS), 0)]
    truth: list[dict[str, Any]] = [{"kind": "title", "first_frame": 0, "last_frame": len(frames[0]) - 1}]
    captions: list[dict[str, Any]] = []
    masks: dict[str, NDArray[np.uint8]] = {}
    spoken: list[str] = []
    scene = ""
    for index in track(range(shots), f"drawing {path.name}"):
        shot = plan_shot(show, characters, index, scene, rng)
        scene = shot.scene
        picture, shot_masks = draw_shot(shot, show.style)
        first = sum(map(len, frames))
        last = first + len(picture) - 1
        frames.append(picture)
        text = format(shot.caption(show.style))
        start, end = round(first / FPS, 4), round(last / FPS, 4)
        captions.append({"start": start, "end": end, "text": text})
        if shot.subtitle:
            spoken.append(f"{len(spoken) + 1}\n{_clock(start)} --> {_clock(end)}\n{shot.subtitle}\n\n")
        people = [{**asdict(a), "boxes": _boxes(m)} for a, m in zip(shot.actors, shot_masks, strict=True)]
        facts = {"scene": scene, "style": show.style, "prop": shot.prop, "camera": asdict(shot.camera)}
        facts |= {"interaction": find_interaction(tuple(a.action for a in shot.actors)), "caption": text}
        truth.append(
            {"kind": "scene", "first_frame": first, "last_frame": last, **facts}
            | {"subtitle": shot.subtitle, "actors": people}
        )
        for actor, mask in zip(shot.actors, shot_masks, strict=True):
            masks[f"{first:05d} {actor.name}"] = np.packbits(mask, axis=-1)
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **masks)
    write_atomic(path.with_suffix(".masks.npz"), buffer.getvalue())
    about = {"show": show.id, "seed": seed, "fps": FPS, "width": WIDTH, "height": HEIGHT + BAND, "band": BAND}
    write_atomic(path.with_suffix(".truth.json"), json.dumps(about | {"shots": truth}) + "\n")
    rows = "".join(json.dumps(row) + "\n" for row in captions)
    write_atomic(path.with_suffix(".captions.jsonl"), rows)
    write_atomic(path.with_suffix(".srt"), "".join(spoken))
    write_video(path, np.concatenate(frames), FPS, {"title": show.name})


def draw(
    out: Path,
    *,
    shows: list[str] | None = None,
    characters: list[str] | None = None,
    episodes: int = 2,
    shots: int = 9,
    seed: int = 0,
) -> list[Path]:
    """Draw episodes of the sandbox's shows as mp4 files, with their ground truth beside them.

    Args:
        out: Output folder, with one sub-folder per show. Existing episodes are kept.
        shows: Ids of the shows to draw. Default: all shows of the sandbox.
        characters: Names of the characters that occur. Default: all characters of the shows.
        episodes: Number of episodes per show.
        shots: Number of shots per episode, without the title card.
        seed: Random seed of the episodes' content.

    Returns:
        The paths of the episodes.

    Raises:
        CastmixError: A number is out of range, a show or character is unknown, a show is not one of the
            sandbox's, or none of the characters occurs in a show.
    """
    for name, value, least in (("episodes", episodes, 1), ("shots", shots, 1), ("seed", seed, 0)):
        if value < least:
            raise CastmixError(f"{name} must be {least} or more, got {value}")
    cast = read_cast()
    chosen = [cast.show(s) for s in shows] if shows else [s for s in cast.shows if s.source == "sandbox"]
    if foreign := [show.id for show in chosen if show.source != "sandbox"]:
        own = ", ".join(show.id for show in cast.shows if show.source == "sandbox")
        raise CastmixError(f"the sandbox cannot draw {', '.join(foreign)}: choose from its own shows, {own}")
    playing = {cast.find(name)[1].name for name in characters or []}
    paths = []
    for number, show in enumerate(chosen):
        people = [c for c in show.characters if not playing or c.name in playing]
        if not people:
            known = ", ".join(c.name for c in show.characters)
            raise CastmixError(
                f"{show.id} has no character {', '.join(sorted(playing))}: its characters are {known}"
            )
        for episode in range(episodes):
            path = Path(out) / show.id / f"{show.id}-{seed}-{episode + 1:02d}.mp4"
            if not path.exists():
                plan = seed * 10_007 + number * 101 + episode
                draw_episode(show, people, path, shots=shots, seed=plan)
            paths.append(path)
    return paths


REFERENCE_POSES = (
    ("stands still", 0.0),
    ("sways", 0.45),
    ("ducks", 0.5),
)
"""(action, time in seconds) of each reference image. The whole character is visible, including a hat."""


def reference_image(show: Show, character: Character, number: int, side: int = 96) -> NDArray[np.uint8]:
    """Draw reference image `number` of a character, (side, side, 3), in a scene of its show.

    `number` is an index into `REFERENCE_POSES`. `character_data/references` holds all three of each
    character.
    """
    action, time = REFERENCE_POSES[number]
    actor = world.Actor(
        world.look_of(character.look), action, show.style, 0.5, ground=0.95, size=0.33 if number else 0.3
    )
    scene = (show.scenes or scenery.SCENES)[number]
    frames, _ = world.draw([actor], scene, show.style, seconds=np.asarray([time]), height=side, width=side)
    return np.asarray(frames[0])
