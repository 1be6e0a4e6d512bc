"""Measures how well a SAM 2 tracks the sandbox's named characters, which are not in its training data.

The prompt is the true box in the first frame. There are four families of test clips. "episodes": shots of one
character, as in the shows' episodes. "cross": two characters pass each other. "alike": the same with equal or
nearly equal looks. "leave": one character leaves the picture and may return.
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
from toolkit.sandbox.sam2_model.examples import Kind, sample_case
from toolkit.sandbox.world import shows, world
from toolkit.segmentation.box_matching import box_iou
from toolkit.segmentation.detectors import reference_detector
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.mask_iou import box_of, region_iou
from toolkit.segmentation.sam2 import sam2_tracker

Family = Literal["episodes", "cross", "alike", "leave"]
FAMILIES: tuple[Family, ...] = get_args(Family)
FRAMES = 24
MIN_FIRST_FRAME_PIXELS = 60  # smallest area of a prompted creature in the first frame
TEST_SEEDS = 700_000_000  # seeds from here on are used for tests only
COLOURS = ((255, 40, 40), (40, 120, 255), (40, 220, 80))


@dataclass(frozen=True)
class MaskedClip:
    """Frames (F, H, W, 3), visible masks (creatures, F, H, W), and the creatures' names ("" if unnamed)."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    names: tuple[str, ...]

    def write(self, path: Path) -> Clip:
        """Write the frames to a video file and return it as a clip."""
        write_video(path, self.frames, world.FPS)
        count, height, width, _ = self.frames.shape
        return Clip(path, "", path.name, 0.0, (count - 1) / world.FPS, world.FPS, count, width, height, 0)


@dataclass(frozen=True)
class TrackingScores:
    """Tracking scores of one family of clips.

    Attributes:
        clips: Number of clips.
        creatures: Number of tracked creatures.
        iou: Mean over creatures of the mean IoU over all frames after the prompted one. In a frame without
            the creature, an empty mask has IoU 1.
        worst: Lowest mean IoU of a creature.
        held: Share of creatures with a mean IoU of at least 0.5 in the last third of the frames: neither lost
            nor confused with another creature.
    """

    clips: int
    creatures: int
    iou: float
    worst: float
    held: float


@dataclass(frozen=True)
class DetectionScores:
    """Scores of a detector on characters that are in the clip.

    Attributes:
        creatures: Number of characters searched for.
        right: Share whose box has an IoU of at least 0.5 with the true box.
        wrong: Share with another box.
        missed: Share without a box.
    """

    creatures: int
    right: float
    wrong: float
    missed: float


def measure_sam2(
    checkpoint: str, folder: Path, *, clips: int = 16, seed: int = 0, device: str | None = None
) -> dict[Family, TrackingScores]:
    """Track characters through test clips of every family with the backend "sam2".

    Args:
        checkpoint: A folder, a hub id, or "sandbox".
        folder: Output folder for the clips and one contact sheet per family.
        clips: Number of clips per family.
        seed: Random seed of the clips.
        device: Device of the model. Default: chosen by the backend.
    """
    propagate = sam2_tracker(Options(checkpoint, None, device, read_cast()))
    results: dict[Family, TrackingScores] = {}
    for family in FAMILIES:
        scores: list[NDArray[np.float64]] = []
        rows = []
        for number in track(range(clips), f"following, {family}"):
            shown = sample_masked_clip(family, TEST_SEEDS + 1_000_000 * seed + number)
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
            rows.append(overlay_masks(shown.frames, found))
        contact_sheet(rows[:12], folder / f"{family}.png", 12)
        results[family] = _summary(clips, scores)
    return results


def measure_reference(
    checkpoint: str, folder: Path, *, clips: int = 16, seed: int = 0, device: str | None = None
) -> DetectionScores:
    """Detect characters with the detector "reference" in clips of the families "episodes" and "cross"."""
    detect, registry = reference_detector(Options(checkpoint, None, device, read_cast())), read_cast()
    told: list[bool | None] = []
    for family in ("episodes", "cross"):
        for number in track(range(clips), f"finding, {family}"):
            shown = sample_masked_clip(family, TEST_SEEDS + 1_000_000 * seed + number)
            clip = shown.write(folder / "clips" / f"{family}-{number:02d}.mp4")
            prompts = detect(clip, [registry.find(name)[1] for name in shown.names])
            for name, mask in zip(shown.names, shown.masks, strict=True):
                prompt = prompts.get(name)
                box = box_of(mask[prompt.frame]) if prompt else None
                right = prompt and box and box_iou(np.asarray(prompt.box), np.asarray(box)) >= 0.5
                told.append(None if prompt is None else bool(right))
    return DetectionScores(len(told), *(told.count(kind) / len(told) for kind in (True, False, None)))


def sample_masked_clip(family: Family, seed: int) -> MaskedClip:
    """Sample the test clip of a seed. All its named characters are visible in the first frame."""
    named = shows.named_looks()
    for attempt in range(100):
        if family == "episodes":
            shown = _episode_shot(np.random.default_rng([seed, attempt]))
        else:
            drawn = sample_case(seed + 1000 * attempt, list(named.values()), cast(Kind, family), FRAMES)
            whose = {look: name for name, look in named.items()}
            shown = MaskedClip(*drawn.draw(), tuple(whose.get(actor.look, "") for actor in drawn.actors[0]))
        if family == "leave":  # only the creature that leaves is tracked
            shown = _select_creatures(shown, [not mask.any((1, 2)).all() for mask in shown.masks])
        if shown.names and (shown.masks[:, 0].sum((1, 2)) >= MIN_FIRST_FRAME_PIXELS).all():
            return shown
    raise AssertionError(f"no clip of {family} with all characters visible in its first frame")


def _select_creatures(shown: MaskedClip, wanted: Sequence[bool]) -> MaskedClip:
    names = tuple(name for name, yes in zip(shown.names, wanted, strict=True) if yes)
    return MaskedClip(shown.frames, shown.masks[list(wanted)], names)


def _episode_shot(rng: np.random.Generator) -> MaskedClip:
    """Draw a shot of one character as in an episode, at the size of the sandbox's clips."""
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
    return MaskedClip(small, masks.reshape(*masks.shape[:2], *tiles).mean((3, 5)) >= 0.5, (one.name,))


def _summary(clips: int, scores: Sequence[NDArray[np.float64]]) -> TrackingScores:
    """Summarise the IoU of each creature's frames."""
    means = [float(one.mean()) for one in scores]
    ends = [float(one[-max(1, len(one) // 3) :].mean()) for one in scores]
    held = sum(end >= 0.5 for end in ends) / len(ends)
    return TrackingScores(clips, len(means), sum(means) / len(means), min(means), held)


def overlay_masks(frames: NDArray[np.uint8], masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Overlay masks (creatures, F, H, W) on frames (F, H, W, 3), with one colour per creature."""
    picture = frames.astype(np.float32)
    for mask, colour in zip(masks, COLOURS, strict=False):
        picture += 0.5 * (mask[..., None] > 0) * (np.asarray(colour, np.float32) - picture)
    return picture.round().astype(np.uint8)


def table(results: Mapping[Family, TrackingScores], detection: DetectionScores) -> str:
    """Format the results as a text table."""
    lines = [f"{'':10}{'creatures':>10}{'mean IoU':>10}{'worst':>8}{'held':>8}"]
    for family, one in results.items():
        lines.append(f"{family:10}{one.creatures:10}{one.iou:10.3f}{one.worst:8.3f}{one.held:8.0%}")
    shares = f"{detection.right:.0%} right, {detection.wrong:.0%} wrong, {detection.missed:.0%} missed"
    return "\n".join([*lines, f"detected by reference images, of {detection.creatures}: {shares}"])
