"""Tracks the prompted characters of a clip and writes their masks, mask quality and an overlay video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.footage.masks import iter_mask, mask_path, write_mask
from toolkit.segmentation.interfaces import Prompt, Propagate
from toolkit.segmentation.overlay import write_overlay
from toolkit.segmentation.quality_gates import measure_quality


def write_masks(
    clip: Clip,
    prompts: Mapping[str, Prompt],
    propagate: Propagate,
    overlay: Path,
    existing: Mapping[str, Path],
) -> dict[str, dict[str, Any]]:
    """Track all prompted characters through a clip; write their masks and the overlay.

    Args:
        clip: The clip.
        prompts: One prompt per character to track, by name.
        propagate: The tracker.
        overlay: Path of the overlay video; it shows all masks of the clip.
        existing: Mask files of other characters, by name. They are not changed. The quality of a new mask
            includes its overlap with them.

    Returns:
        For each prompted name `file`, `prompt` and `quality`, as in the clip's json.

    Raises:
        CastmixError: The clip cannot be tracked, the tracker returned too few or wrong masks, or an existing
            mask cannot be read or does not fit the clip.
    """
    shape = (clip.height, clip.width)
    frames = range(clip.num_frames)
    with DiskArrays() as masks:

        def store(frame: int, name: str, mask: NDArray[np.uint8]) -> None:
            if name not in prompts or frame not in frames:
                raise CastmixError(
                    f"{clip.path.name}: the tracker returned a mask of {name} in frame {frame}; expected "
                    f"{', '.join(prompts)} in frames 0 to {len(frames) - 1}"
                )
            if mask.shape != shape or mask.dtype != np.uint8:
                raise CastmixError(
                    f"{clip.path.name}: the tracker's mask of {name} is {mask.dtype} {mask.shape}, "
                    f"expected uint8 {shape}"
                )
            masks.put((frame, name), mask)

        propagate(clip, prompts, store)
        for name in prompts:
            if missing := [frame for frame in frames if (frame, name) not in masks]:
                raise CastmixError(
                    f"{clip.path.name}: the tracker returned no mask of {name} for {len(missing)} of "
                    f"{len(frames)} frames, the first is {missing[0]}"
                )
        quality = measure_quality(
            others | {name: masks.get((frame, name)) for name in prompts}
            for frame, others in enumerate(_by_frame(existing, clip))
        )
        files = {name: mask_path(clip, name) for name in prompts}
        for name, file in files.items():
            write_mask(file, map(masks.get, ((frame, name) for frame in frames)), clip.fps)
    write_overlay(overlay, clip, {**existing, **files})
    return {
        name: {"file": file.name, "prompt": prompts[name].as_row(), "quality": quality[name]}
        for name, file in files.items()
    }


def _by_frame(masks: Mapping[str, Path], clip: Clip) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """Read mask files frame by frame: yields the masks of one frame by name."""
    shape = (clip.height, clip.width)
    streams = {name: iter_mask(path) for name, path in masks.items()}
    for frame in range(clip.num_frames + 1):
        now = {name: mask for name, stream in streams.items() if (mask := next(stream, None)) is not None}
        if frame == clip.num_frames and not now:
            return
        for name, path in masks.items():
            if frame == clip.num_frames or name not in now or now[name].shape != shape:
                raise CastmixError(
                    f"{path} does not fit {clip.path.name}, which has {clip.num_frames} frames of "
                    f"{clip.width}x{clip.height}: delete the mask; the next run makes it again"
                )
        yield now
