"""Composites of the sandbox's shows: a character cut out by its true mask, pasted into the other style.

Character Mixing's second half in its simplest form (arXiv 2510.05093, section 3.2): without such clips the
scene's style decides who is drawn, and two characters of opposite styles never share a picture. The mask
comes from the truth beside the episode, the place is fixed: who is pasted stands beside the one who is there.
Nobody's colours are changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolkit.captions import Caption, format, parse
from toolkit.cast import Cast
from toolkit.data import Clip, write_clip, write_index
from toolkit.sandbox import shows
from toolkit.video import read_video, write_video

SHIFT = 0.46
"""How far from the middle the pasted character stands, in picture heights."""


def alpha(clip: Clip, name: str) -> NDArray[np.float32]:
    """How much of each pixel is the character, (F, H, W) in 0..1, from the masks beside the episode."""
    masks = np.load(Path(clip.source).with_suffix(".masks.npz"))
    starts = sorted(int(key.split()[0]) for key in masks if key.split(maxsplit=1)[1] == name)
    first = round(clip.start * shows.FPS)
    shot = max(start for start in starts if start <= first + 1)
    mask = np.unpackbits(masks[f"{shot:05d} {name}"], axis=-1, count=shows.WIDTH)
    times = clip.start + np.arange(clip.num_frames) / clip.fps
    frames = mask[np.clip(np.round(times * shows.FPS).astype(int) - shot, 0, len(mask) - 1)]
    scale = shows.HEIGHT // clip.height
    blocks = frames.reshape(len(frames), clip.height, scale, clip.width, scale)
    return np.asarray(blocks.mean((2, 4)), np.float32)


def paste(
    back: NDArray[np.uint8], front: NDArray[np.uint8], mask: NDArray[np.float32], shift: int
) -> NDArray[np.uint8]:
    """Mask * front + (1 - mask) * back of clips (F, H, W, 3), the front moved right by `shift` pixels."""
    moved, where = np.zeros_like(front), np.zeros_like(mask)
    width = back.shape[2]
    shift = max(-width, min(width, shift))
    target, source = slice(max(shift, 0), width + min(shift, 0)), slice(max(-shift, 0), width - max(shift, 0))
    moved[:, :, target], where[:, :, target] = front[:, :, source], mask[:, :, source]
    mixed = where[..., None] * moved + (1 - where[..., None]) * back
    return (mixed + 0.5).astype(np.uint8)


def crossovers(clips: Sequence[Clip], cast: Cast, out: Path, count: int, seed: int) -> Path:
    """Write `count` composites of one-character clips of opposite styles to the folder `out`.

    The caption has both characters, the left one first, and the background's scene tag; the clip's json names
    both parents. Composites that are there are kept.
    """
    solo: dict[str, list[tuple[Clip, Caption]]] = {"cartoon": [], "realistic": []}
    for clip in clips:
        caption = parse(clip.text, cast)
        if len(caption.clauses) == 1:
            solo[caption.style].append((clip, caption))
    rng = np.random.default_rng(seed)
    for index in range(count):
        styles = ("cartoon", "realistic") if index % 2 == 0 else ("realistic", "cartoon")
        (front, who), (back, there) = (solo[s][int(rng.integers(len(solo[s])))] for s in styles)
        left = bool(rng.random() < 0.5)
        path = out / "clips" / f"crossover-{index:04d}.mp4"
        if path.with_suffix(".json").exists():
            continue
        shift = round((-SHIFT if left else SHIFT) * back.height)
        mask = alpha(front, who.clauses[0].name)
        frames = paste(read_video(back.path)[0], read_video(front.path)[0], mask, shift)
        write_video(path, frames, back.fps)
        # where somebody is, the background's clause says; the pasted one is there, too
        action = who.clauses[0].action.rsplit(" in the ", 1)[0].rsplit(" on the ", 1)[0]
        pasted = replace(who.clauses[0], action=action)
        clauses = (pasted, there.clauses[0]) if left else (there.clauses[0], pasted)
        text = format(Caption(clauses, there.style))
        parents = {"composite": [back.id, front.id], "shift": shift, "seed": seed}
        write_clip(out, replace(back, path=path, text=text, extra={**back.extra, **parents}))
    write_index(out)
    return out
