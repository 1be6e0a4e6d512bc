"""Clips with masks, drawn for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.masks import mask_path, write_mask
from toolkit.footage.video import write_video

STYLES = {"Pixo": "cartoon", "Mimi": "cartoon", "Luma": "cartoon", "Rufus": "realistic", "Greta": "realistic"}


def draw(
    folder: Path,
    who: Sequence[str],
    *,
    name: str = "",
    masks: bool = True,
    count: int = 9,
    fps: float = 8.0,
    size: tuple[int, int] = (64, 96),
    pan: float = 0.0,
) -> Clip:
    """A clip of blocks that sway before a wall, side by side, with their masks."""
    import cv2

    height, width = size
    rng = np.random.default_rng(len(name) + sum(map(ord, "".join(who))))
    wall = cv2.resize(
        rng.integers(30, 220, (16, 40, 3)).astype(np.uint8),
        (2 * width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    frames = np.empty((count, height, width, 3), np.uint8)
    seen = {one: np.zeros((count, height, width), np.uint8) for one in who}
    for k, t in enumerate(np.arange(count) / fps):
        left = round(pan * t * height)
        frames[k] = wall[:, left : left + width]
        for i, one in enumerate(who):
            x = int(width * (i + 0.5) / len(who) + 0.04 * width * np.sin(5 * t))
            box = slice(int(0.35 * height), int(0.85 * height)), slice(x - width // 9, x + width // 9)
            seen[one][k][box] = 255
            frames[k][box] = rng.integers(0, 255, 3)
    clip_id = name or "-".join(who).lower()
    path = folder / "clips" / f"{clip_id}.mp4"
    clauses = " ".join(f"[Character: {one}], sways{' in the room' * (i == 0)}." for i, one in enumerate(who))
    text = f"{clauses} [scene-style:{STYLES[who[0]]}]"
    clip = Clip(path, text, f"{clip_id}.mkv", 1.0, 1.0 + (count - 1) / fps, fps, count, width, height, 3)
    write_video(path, frames, fps)
    for one in who if masks else ():
        write_mask(mask_path(clip, one), seen[one], fps)
        file = mask_path(clip, one).name
        clip.extra.setdefault("masks", {})[one] = {"file": file, "accepted": True, "reasons": []}
    write_clip(folder, clip)
    return clip


def mask_squares(folder: Path) -> Path:
    """True masks of the squares that `make_clips` draws, which leave the picture to the right in the end."""
    for clip in read_clips(folder):
        masks = np.zeros((clip.num_frames, clip.height, clip.width), np.uint8)
        for t, mask in enumerate(masks):
            mask[8:20, 2 * t : 2 * t + 12] = 255
        write_mask(mask_path(clip, "Pixo"), masks, clip.fps)
        record = {"accepted": True, "reasons": [], "quality": {}}
        write_clip(folder, dataclasses.replace(clip, extra={"masks": {"Pixo": record}}))
    write_index(folder)
    return folder
