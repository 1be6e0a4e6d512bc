"""How well a SAM 2 follows the sandbox's named characters, whom it has never seen, from a true first box.

`episodes` are shots of one character as the shows' episodes have them; in `cross`, two go past each other; in
`alike`, they look the same or nearly so; in `leave`, one leaves the picture and comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import read_cast
from toolkit.core.progress import track
from toolkit.footage.clips import Clip
from toolkit.footage.video import contact_sheet, write_video
from toolkit.sandbox.sam2_model.examples import Kind, case
from toolkit.sandbox.world import shows, world
from toolkit.segmentation.box_matching import box_iou
from toolkit.segmentation.detectors import reference_detector
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.mask_iou import box_of, region_iou
from toolkit.segmentation.sam2 import sam2_tracker

Family = Literal["episodes", "cross", "alike", "leave"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FRAMES = 24
LEAST_SEEN = 60  # pixels of a first frame that make a creature worth a prompt
TESTING = 700_000_000  # seeds from here on are never trained on
COLOURS = ((255, 40, 40), (40, 120, 255), (40, 220, 80))


@dataclass(frozen=True)
class Film:
    """Frames (F, H, W, 3), visible masks (creatures, F, H, W), and who they are, "" for nobody known."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    names: tuple[str, ...]

    def write(self, path: Path) -> Clip:
        """Write the frames as a clip."""
        write_video(path, self.frames, world.FPS)
        count, height, width, _ = self.frames.shape
        return Clip(path, "", path.name, 0.0, (count - 1) / world.FPS, world.FPS, count, width, height, 0)


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


@dataclass(frozen=True)
class Noticed:
    """How often a detector was right about characters that are there.

    Attributes:
        creatures: How many were asked for.
        right: The share whose box has an IoU of at least one half with the true one.
        wrong: The share with another box.
        missed: The share without a box.
    """

    creatures: int
    right: float
    wrong: float
    missed: float


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
    propagate = sam2_tracker(Options(checkpoint, None, device, read_cast()))
    results: dict[Family, Followed] = {}
    for family in FAMILIES:
        scores: list[NDArray[np.float64]] = []
        rows = []
        for number in track(range(clips), f"following, {family}"):
            shown = film(family, TESTING + 1_000_000 * seed + number)
            clip = shown.write(folder / "clips" / f"{family}-{number:02d}.mp4")
            prompts = {str(k): Prompt(0, box_of(mask[0])) for k, mask in enumerate(shown.masks)}
            found = np.zeros(shown.masks.shape, np.uint8)

            def store(frame: int, name: str, mask: NDArray[np.uint8], into: Any = found) -> None:
                into[int(name), frame] = mask

            propagate(clip, prompts, store)
            scores += [
                np.asarray([region_iou(a, b) for a, b in zip(own[1:], real[1:], strict=True)])
                for own, real in zip(found, shown.masks, strict=True)
            ]
            rows.append(painted(shown.frames, found))
        contact_sheet(rows[:12], folder / f"{family}.png", 12)
        results[family] = _summary(clips, scores)
    return results


def measure_reference(
    checkpoint: str, folder: Path, *, clips: int = 16, seed: int = 0, device: str | None = None
) -> Noticed:
    """Look for characters by their pictures, with the detector "reference", in `episodes` and `cross`."""
    detect, registry = reference_detector(Options(checkpoint, None, device, read_cast())), read_cast()
    told: list[bool | None] = []
    for family in ("episodes", "cross"):
        for number in track(range(clips), f"finding, {family}"):
            shown = film(family, TESTING + 1_000_000 * seed + number)
            clip = shown.write(folder / "clips" / f"{family}-{number:02d}.mp4")
            prompts = detect(clip, [registry.find(name)[1] for name in shown.names])
            for name, mask in zip(shown.names, shown.masks, strict=True):
                prompt = prompts.get(name)
                box = box_of(mask[prompt.frame]) if prompt else None
                right = prompt and box and box_iou(np.asarray(prompt.box), np.asarray(box)) >= 0.5
                told.append(None if prompt is None else bool(right))
    return Noticed(len(told), *(told.count(kind) / len(told) for kind in (True, False, None)))


def film(family: Family, seed: int) -> Film:
    """The test clip of a seed: named characters, all of them to be seen in the first frame."""
    named = shows.named_looks()
    for attempt in range(100):
        if family == "episodes":
            shown = _shot(np.random.default_rng([seed, attempt]))
        else:
            drawn = case(seed + 1000 * attempt, list(named.values()), cast(Kind, family), FRAMES)
            whose = {look: name for name, look in named.items()}
            shown = Film(*drawn.draw(), tuple(whose.get(actor.look, "") for actor in drawn.actors[0]))
        if family == "leave":  # only who leaves is followed
            shown = _only(shown, [not mask.any((1, 2)).all() for mask in shown.masks])
        if shown.names and (shown.masks[:, 0].sum((1, 2)) >= LEAST_SEEN).all():
            return shown
    raise AssertionError(f"no clip of {family} with everybody in its first frame")


def _only(shown: Film, wanted: Sequence[bool]) -> Film:
    names = tuple(name for name, yes in zip(shown.names, wanted, strict=True) if yes)
    return Film(shown.frames, shown.masks[list(wanted)], names)


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
    return Film(small, masks.reshape(*masks.shape[:2], *tiles).mean((3, 5)) >= 0.5, (one.name,))


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


def table(results: Mapping[Family, Followed], noticed: Noticed) -> str:
    """The results as lines of text."""
    lines = [f"{'':10}{'creatures':>10}{'mean IoU':>10}{'worst':>8}{'held':>8}"]
    for family, one in results.items():
        lines.append(f"{family:10}{one.creatures:10}{one.iou:10.3f}{one.worst:8.3f}{one.held:8.0%}")
    shares = f"{noticed.right:.0%} right, {noticed.wrong:.0%} wrong, {noticed.missed:.0%} missed"
    return "\n".join([*lines, f"found by pictures, of {noticed.creatures}: {shares}"])
