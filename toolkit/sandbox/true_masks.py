"""Ground-truth masks of the sandbox's episodes: the backend and the detector "truth" of `castmix segment`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import Character
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.sandbox.world import shows, world
from toolkit.segmentation.interfaces import Detect, Options, Prompt, Propagate, StoreMask
from toolkit.segmentation.mask_iou import box_of


def propagate_true_masks(options: Options) -> Propagate:
    """Backend "truth": the masks stored beside the sandbox's episodes. The content of prompts is not used."""

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        for name in prompts:
            for frame, mask in enumerate(true_mask(clip, name)):
                store(frame, name, mask)

    return propagate


def detect_true_boxes(options: Options) -> Detect:
    """Detector "truth": the box of each character in the frame with its largest visible area."""

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        found = {}
        for character in characters:
            seen = true_mask(clip, character.name) >= 128
            frame = int(seen.sum((1, 2)).argmax())
            if box := box_of(seen[frame]):
                found[character.name] = Prompt(frame, box)
        return found

    return detect


def true_mask(clip: Clip, name: str) -> NDArray[np.uint8]:
    """Return the coverage of each pixel by a character, uint8 (F, H, W); all 0 if it is not in the shot.

    The masks are averaged down to the clip's size.

    Raises:
        CastmixError: The clip's source has no masks beside it, or the episode's size is not an integer
            multiple of the clip's size.
    """
    path = Path(clip.source).with_suffix(".masks.npz")
    if not path.exists():
        raise CastmixError(
            f"{path} is missing: only the sandbox's episodes have ground-truth masks beside them; "
            "use another backend and detector for other footage"
        )
    scale = shows.HEIGHT // clip.height
    if (clip.height * scale, clip.width * scale) != (shows.HEIGHT, shows.WIDTH):
        raise CastmixError(
            f"{clip.path} is {clip.width}x{clip.height}: the ground-truth masks of "
            f"{shows.WIDTH}x{shows.HEIGHT} need clips of that size, or of a half, a third, a quarter, …: "
            "prepare it with `--preset sandbox`"
        )
    with np.load(path) as masks:
        known = [key.partition(" ") for key in masks.files]
        first = round(clip.start * shows.FPS)
        shot = max((int(start) for start, _, _ in known if int(start) <= first + 1), default=0)
        if (f"{shot:05d}", " ", name) not in known:
            return np.zeros((clip.num_frames, clip.height, clip.width), np.uint8)
        mask = np.unpackbits(masks[f"{shot:05d} {name}"], axis=-1, count=shows.WIDTH)
    times = clip.start + np.arange(clip.num_frames) / clip.fps
    # `prepare` takes the frame that is shown at each of these times.
    numbers = np.floor(times * shows.FPS + 1e-3).astype(int) - shot
    frames = mask[np.clip(numbers, 0, len(mask) - 1)]
    blocks = frames.reshape(len(frames), clip.height, scale, clip.width, scale)
    return np.asarray(np.round(blocks.mean((2, 4)) * 255), np.uint8)


def true_ground(clip: Clip, name: str) -> float | None:
    """Return the y of the ground below a sandbox character in the clip's first frame, in pixels.

    Returns None for other footage.
    """
    path = Path(clip.source).with_suffix(".truth.json")
    if not path.exists():
        return None
    truth = json.loads(path.read_text(encoding="utf-8"))
    frame = clip.start * truth["fps"]
    for shot in truth["shots"]:
        if shot["kind"] != "scene" or not shot["first_frame"] - 1 <= frame <= shot["last_frame"]:
            continue
        for actor in shot["actors"]:
            if actor["name"] == name:
                seconds = (frame - shot["first_frame"]) / truth["fps"]
                _, scale = world.Camera(**shot["camera"]).view(np.asarray(seconds))
                return (
                    float((actor["ground"] - world.ZOOM_CENTRE_Y) * scale + world.ZOOM_CENTRE_Y) * clip.height
                )
    return None
