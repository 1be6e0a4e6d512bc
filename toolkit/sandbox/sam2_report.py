"""How well a SAM 2 follows the sandbox's named characters, whom it has never seen, from a true first box.

`episodes` are shots of one character as the shows' episodes have them; in `cross`, two go past each other; in
`alike`, they look the same or nearly so; in `leave`, one leaves the picture and comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from toolkit.cast import read_cast
from toolkit.data import Clip
from toolkit.progress import track
from toolkit.sandbox import shows, world
from toolkit.sandbox.sam2_examples import Kind, case
from toolkit.segmentation.measure import region_iou
from toolkit.segmentation.prompt import Options, Prompt
from toolkit.segmentation.sam2 import sam2
from toolkit.segmentation.truth import box_of
from toolkit.video import contact_sheet, write_video

Family = Literal["episodes", "cross", "alike", "leave"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FRAMES = 24
LEAST_SEEN = 60  # pixels of a first frame that make a creature worth a prompt
TESTING = 700_000_000  # seeds from here on are never trained on
COLOURS = ((255, 40, 40), (40, 120, 255), (40, 220, 80))

Film = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""Frames (F, H, W, 3) and visible masks (creatures, F, H, W)."""


@dataclass(frozen=True)
class Followed:
    """How well a family of clips went.

    Attributes:
        clips: How many.
        creatures: How many were followed in them.
        iou: Mean over creatures of the mean IoU over frames, but for the prompted one; in a frame without the
            creature an empty mask is right.
        worst: The lowest of the creatures.
        held: The share of creatures whose last third has a mean IoU of at least one half: not lost, and not
            taken for another.
    """

    clips: int
    creatures: int
    iou: float
    worst: float
    held: float


def measure_sam2(
    checkpoint: str, folder: Path, *, clips: int = 16, seed: int = 0, device: str | None = None
) -> dict[Family, Followed]:
    """Follow characters through `clips` clips of every family with the backend "sam2".

    Args:
        checkpoint: What the backend takes: a folder, a hub id, or "sandbox".
        folder: Where the clips are written, and of every family a sheet of pictures.
        clips: How many of each family.
        seed: Another seed draws other clips.
        device: Where the model runs.
    """
    propagate = sam2(Options(checkpoint, None, device, read_cast()))
    results: dict[Family, Followed] = {}
    for family in FAMILIES:
        scores: list[NDArray[np.float64]] = []
        rows = []
        for number in track(range(clips), f"following, {family}"):
            frames, truth = film(family, TESTING + 1_000_000 * seed + number)
            path = folder / "clips" / f"{family}-{number:02d}.mp4"
            write_video(path, frames, world.FPS)
            prompts = {str(k): Prompt(0, box_of(mask[0])) for k, mask in enumerate(truth)}
            found = np.zeros(truth.shape, np.uint8)

            def put(frame: int, name: str, mask: NDArray[np.uint8], into: Any = found) -> None:
                into[int(name), frame] = mask

            propagate(_clip(path, frames), prompts, put)
            scores += [
                np.asarray([region_iou(a, b) for a, b in zip(own[1:], real[1:], strict=True)])
                for own, real in zip(found, truth, strict=True)
            ]
            rows.append(painted(frames, found))
        contact_sheet(rows[:12], folder / f"{family}.png", 12)
        results[family] = _summary(clips, scores)
    return results


def film(family: Family, seed: int) -> Film:
    """The test clip of a seed: named characters, all of them to be seen in the first frame."""
    named = shows.named_looks()
    for attempt in range(100):
        if family == "episodes":
            frames, masks = _shot(np.random.default_rng([seed, attempt]))
        else:
            drawn = case(seed + 1000 * attempt, list(named.values()), cast(Kind, family), FRAMES)
            frames, masks = drawn.draw()
            if family == "leave":  # only who leaves is followed
                masks = masks[[not mask.any((1, 2)).all() for mask in masks]]
        if len(masks) and (masks[:, 0].sum((1, 2)) >= LEAST_SEEN).all():
            return frames, masks
    raise AssertionError(f"no clip of {family} with everybody in its first frame")


def _shot(rng: np.random.Generator) -> Film:
    """A shot of one character as an episode has it, made as small as the sandbox's clips."""
    all_shows = [show for show in read_cast().shows if show.source == "sandbox"]
    show = all_shows[int(rng.integers(len(all_shows)))]
    one = show.characters[int(rng.integers(len(show.characters)))]
    shot = shows.plan_shot(show, [one], 0, "", rng)
    times = np.arange(min(FRAMES, int(shot.seconds * world.FPS))) / world.FPS
    frames, masks = world.draw(
        shot.actors, shot.scene, show.style, seconds=times, height=shows.HEIGHT, width=shows.WIDTH,
        camera=shot.camera, prop=shot.prop,
    )  # fmt: skip
    scale = shows.HEIGHT // world.HEIGHT
    tiles = (world.HEIGHT, scale, world.WIDTH, scale)
    small = frames.reshape(len(frames), *tiles, 3).mean((2, 4)).round().astype(np.uint8)
    return small, masks.reshape(*masks.shape[:2], *tiles).mean((3, 5)) >= 0.5


def _clip(path: Path, frames: NDArray[np.uint8]) -> Clip:
    count, height, width, _ = frames.shape
    end = (count - 1) / world.FPS
    return Clip(path, "", path.name, 0.0, end, world.FPS, count, width, height, 0)


def _summary(clips: int, scores: Sequence[NDArray[np.float64]]) -> Followed:
    """Of the IoU of each creature's frames."""
    means = [float(one.mean()) for one in scores]
    ends = [float(one[-max(1, len(one) // 3) :].mean()) for one in scores]
    held = sum(end >= 0.5 for end in ends) / len(ends)
    return Followed(clips, len(means), sum(means) / len(means), min(means), held)


def painted(frames: NDArray[np.uint8], masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (F, H, W, 3) with masks (creatures, F, H, W) laid over them, a colour each."""
    picture = frames.astype(np.float32)
    for mask, colour in zip(masks, COLOURS, strict=False):
        picture += 0.5 * (mask[..., None] > 0) * (np.asarray(colour, np.float32) - picture)
    return picture.round().astype(np.uint8)


def table(results: dict[Family, Followed]) -> str:
    """The results as lines of text."""
    lines = [f"{'':10}{'creatures':>10}{'mean IoU':>10}{'worst':>8}{'held':>8}"]
    for family, one in results.items():
        lines.append(f"{family:10}{one.creatures:10}{one.iou:10.3f}{one.worst:8.3f}{one.held:8.0%}")
    return "\n".join(lines)


def as_rows(results: dict[Family, Followed]) -> dict[str, dict[str, float]]:
    """The results as they stand in a json."""
    return {family: asdict(one) for family, one in results.items()}
