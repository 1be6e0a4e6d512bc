"""How fast composites are made and planned: ``python benchmarks/compositing.py``.

Clips of 81 frames of 480x832 at 16 a second, each with somebody 300 pixels tall, are pasted into each other:
reading, cutting, blending and writing, as a ratio to real time, which is 81/16 seconds. Then 5,000
composites are planned from the facts of 2,000 such clips.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # run as a script, it finds this checkout's toolkit

from toolkit.captions.cast import read_cast  # noqa: E402
from toolkit.captions.grammar import Caption, Clause  # noqa: E402
from toolkit.compositing.blending import Edge, Picture  # noqa: E402
from toolkit.compositing.eligible_clips import Background, Choice, Foreground, select_clips  # noqa: E402
from toolkit.compositing.pairing import PairingSampler  # noqa: E402
from toolkit.compositing.placement import Place  # noqa: E402
from toolkit.compositing.plan import plan_rows  # noqa: E402
from toolkit.compositing.write_composites import write_composite  # noqa: E402
from toolkit.footage.clips import Clip, write_clip  # noqa: E402
from toolkit.footage.masks import mask_path, write_mask  # noqa: E402
from toolkit.footage.video import write_video  # noqa: E402
from toolkit.sandbox.true_masks import true_ground  # noqa: E402

HEIGHT, WIDTH, FRAMES, FPS = 480, 832, 81, 16.0
NOISE = 1.0
"""Levels; clips a little larger than ten prepared from real footage were (21 to 43 kB a frame)."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shows = {"Pixo": ("cartoon", 1), "Rufus": ("realistic", 2)}
        clips = [_clip(folder, who, style, seed) for who, (style, seed) in shows.items()]
        took, found = _timed(
            lambda: select_clips([(folder, clip) for clip in clips], read_cast(), Choice(), true_ground)
        )
        fronts, backs, reasons = found
        assert not reasons, reasons
        print(f"facts, once a clip: {took / 2:.2f} s of CPU")
        sampler = PairingSampler("mix", "opposite", fronts, backs)
        rows, _ = plan_rows(range(4), sampler, three=0, place=Place(), edge=Edge(), seed=0)
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            took, _ = _timed(lambda: list(pool.map(lambda row: write_composite(row, folder / "out"), rows)))
        wall, real = time.perf_counter() - began, len(rows) * FRAMES / FPS
        size = sum(clip.path.stat().st_size for clip in clips) / len(clips) / FRAMES / 1000
        print(
            f"{len(rows)} composites at {HEIGHT}x{WIDTH} of clips of {size:.0f} kB a frame, two threads: "
            f"{took:.1f} s of CPU, {wall:.1f} s of time: "
            f"{2 * real / took:.1f} times real time on two cores of their own, {real / wall:.1f} here and now"
        )
        many = _many(fronts, backs, 1000)
        sampler = PairingSampler("mix", "opposite", *many)
        took, (rows, _) = _timed(
            lambda: plan_rows(range(5000), sampler, three=0.2, place=Place(), edge=Edge(), seed=1)
        )
        print(f"{len(rows)} composites of {len(many[1])} clips planned in {took:.1f} s of CPU")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU that something takes, all threads together: what counts on a machine that others use."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


def _clip(folder: Path, who: str, style: str, seed: int) -> Clip:
    """Somebody who sways before a wall of soft noise, with a mask."""
    import cv2

    rng = np.random.default_rng(seed)
    wall = cv2.resize(
        rng.integers(40, 200, (12, 20, 3)).astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    coat = cv2.resize(rng.integers(0, 255, (40, 30, 3)).astype(np.uint8), (WIDTH, HEIGHT))
    masks: list[Picture] = []

    def frames() -> Iterator[Picture]:
        for k in range(FRAMES):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            x = WIDTH // 2 + round(60 * np.sin(k / 6))
            cv2.ellipse(mask, (x, 300), (90, 150), 8 * np.sin(k / 9), 0, 360, 255, -1, cv2.LINE_AA)
            masks.append(mask)
            picture = np.where(mask[..., None] > 127, coat, wall)
            yield np.clip(picture + rng.normal(0, NOISE, picture.shape), 0, 255).astype(np.uint8)

    text = f"[Character: {who}], sways in the room. [scene-style:{style}]"
    path = folder / "clips" / f"{who}.mp4"
    clip = Clip(path, text, "none", 0.0, (FRAMES - 1) / FPS, FPS, FRAMES, WIDTH, HEIGHT, 0)
    write_video(path, frames(), FPS)
    write_mask(mask_path(clip, who), masks, FPS)
    clip.extra["masks"] = {who: {"file": mask_path(clip, who).name, "accepted": True}}
    write_clip(folder, clip)
    return clip


def _many(
    fronts: list[Foreground], backs: list[Background], times: int
) -> tuple[list[Foreground], list[Background]]:
    """The same clips under many names."""
    more_fronts, more_backs = [], []
    for number in range(times):
        more_fronts += [replace(one, clip=replace(one.clip, extra={"number": number})) for one in fronts]
        for one in backs:
            caption = Caption((Clause(one.names[0], f"sways in room {number}"),), one.style)
            more_backs.append(replace(one, id=f"{one.id}-{number}", caption=caption))
    return more_fronts, more_backs


if __name__ == "__main__":
    main()
