"""Episodes of the sandbox's shows: ordinary mp4 files with the truth beside them.

An episode has a title card, hard cuts between shots of one or two characters, and subtitles burnt into a
black band below the picture (`--crop 0,0,16,0` removes it). Beside `x.mp4` stand `x.truth.json` (shots, who
does what, boxes), `x.masks.npz` (every character's mask in every frame, packed bits) and `x.captions.jsonl`
(what the `sidecar` captioner reads).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.captions import Caption, Clause, format
from toolkit.cast import Show, Style, read_cast
from toolkit.data import write_atomic
from toolkit.progress import track
from toolkit.sandbox import paint, world
from toolkit.video import write_video

HEIGHT, WIDTH, BAND = 128, 192, 16
FPS = 24.0
TITLE_SECONDS = 1.5
BAND_CROP = (0, 0, BAND, 0)
SAYINGS = ("And off we go.", "Is anyone there?", "What a day!", "")


def named_looks() -> dict[str, world.Look]:
    """The looks of the sandbox shows' characters, which the base must never see."""
    shows = [s for s in read_cast().shows if s.source == "sandbox"]
    return {c.name: world.look_of(c.look) for s in shows for c in s.characters}


@dataclass(frozen=True)
class Shot:
    """One planned shot: `actors` are drawn left to right."""

    seconds: float
    scene: str
    actors: tuple[world.Actor, ...]
    seed: int
    subtitle: str

    def caption(self, style: Style) -> Caption:
        """What happens in the shot, in the grammar; the place goes with the first character."""
        clauses = [Clause(a.name, a.action) for a in self.actors]
        where = "on the beach" if self.scene == "beach" else f"in the {self.scene}"
        clauses[0] = Clause(clauses[0].name, f"{clauses[0].action} {where}")
        return Caption(tuple(clauses), style)


def plan_shot(show: Show, index: int, avoid: str, rng: np.random.Generator) -> Shot:
    """A shot with one character (two thirds) or two, often in its signature action.

    The show's lead, the first in its file, has three shots of four. It plays in another scene than `avoid`.
    """
    scenes = [s for s in (show.scenes or paint.SCENES) if s != avoid]
    scene = scenes[int(rng.integers(len(scenes)))]
    supporting = show.characters[1:]
    cast = [supporting[index // 4 % len(supporting)] if supporting and index % 4 == 3 else show.characters[0]]
    if rng.random() < 1 / 3 and len(show.characters) > 1:
        others = [c for c in show.characters if c is not cast[0]]
        cast.append(others[int(rng.integers(len(others)))])
    actors = []
    for character in cast:
        own = character.signature if character.signature in world.ACTIONS else ""
        action = own if own and rng.random() < 0.35 else str(rng.choice(list(world.BASE_ACTIONS)))
        actors.append(
            world.Actor(world.look_of(character.look), action, show.style, 0.0, name=character.name)
        )
    lines = [*(f"{c.name}, look at that!" for c in cast), *SAYINGS]
    seconds = float(rng.choice([5.3, 6.6]))
    subtitle = lines[int(rng.integers(len(lines)))]
    return Shot(seconds, scene, world.place(actors, rng), int(rng.integers(1 << 31)), subtitle)


def _text(width: int, height: int, text: str, size: int) -> NDArray[np.uint8]:
    """White text in the middle of a black picture (height, width, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (width, height))
    ImageDraw.Draw(picture).text(
        (width / 2, height / 2), text, fill="white", font=ImageFont.load_default(size), anchor="mm"
    )
    return np.asarray(picture)


def _boxes(masks: NDArray[np.bool_]) -> list[list[int] | None]:
    """Boxes [left, top, right, bottom) of a mask (F, H, W), None in frames without it."""
    boxes: list[list[int] | None] = []
    for mask in masks:
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1] if len(xs) else None)
    return boxes


def draw_shot(shot: Shot, style: Style) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames with their subtitle (F, H + band, W, 3) and visible masks (actors, F, H, W) of a shot."""
    times = np.arange(round(shot.seconds * FPS), dtype=np.float32) / np.float32(FPS)
    picture, masks = world.draw(
        shot.actors, shot.scene, style, seconds=times, height=HEIGHT, width=WIDTH, seed=shot.seed
    )
    band = np.repeat(_text(WIDTH, BAND, shot.subtitle, 11)[None], len(times), 0)
    return np.concatenate([picture, band], 1), masks


def draw_episode(show: Show, path: Path, *, shots: int, seed: int) -> None:
    """Draw one episode and its truth. The mp4 is written last: where it stands, everything stands."""
    rng = np.random.default_rng(seed)
    title = _text(WIDTH, HEIGHT + BAND, show.name, 22)
    frames = [np.repeat(title[None], round(TITLE_SECONDS * FPS), 0)]
    truth: list[dict[str, Any]] = [{"kind": "title", "first_frame": 0, "last_frame": len(frames[0]) - 1}]
    captions: list[dict[str, Any]] = []
    masks: dict[str, NDArray[np.uint8]] = {}
    scene = ""
    for index in track(range(shots), f"drawing {path.name}"):
        shot = plan_shot(show, index, scene, rng)
        scene = shot.scene
        picture, shot_masks = draw_shot(shot, show.style)
        first = sum(map(len, frames))
        last = first + len(picture) - 1
        frames.append(picture)
        text = format(shot.caption(show.style))
        captions.append({"start": round(first / FPS, 4), "end": round(last / FPS, 4), "text": text})
        people = [{**asdict(a), "boxes": _boxes(m)} for a, m in zip(shot.actors, shot_masks, strict=True)]
        truth.append(
            {"kind": "scene", "first_frame": first, "last_frame": last, "scene": scene, "style": show.style}
            | {"caption": text, "subtitle": shot.subtitle, "actors": people}
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
    write_video(path, np.concatenate(frames), FPS, {"title": show.name})


def draw(
    out: Path, *, shows: list[str] | None = None, episodes: int = 2, shots: int = 9, seed: int = 0
) -> list[Path]:
    """Draw episodes of the sandbox's shows as mp4 files, with the truth beside them.

    Args:
        out: Folder to write to; one sub-folder a show. Episodes that stand there already are kept.
        shows: Ids of shows in the registry, all of the sandbox's when left out.
        episodes: Episodes a show.
        shots: Shots an episode, besides its title card.
        seed: Another seed plans other episodes of the same characters.
    """
    cast = read_cast()
    chosen = [cast.show(s) for s in shows] if shows else [s for s in cast.shows if s.source == "sandbox"]
    paths = []
    for number, show in enumerate(chosen):
        for episode in range(episodes):
            path = Path(out) / show.id / f"{show.id}-{seed}-{episode + 1:02d}.mp4"
            if not path.exists():
                draw_episode(show, path, shots=shots, seed=seed * 10_007 + number * 101 + episode)
            paths.append(path)
    return paths
