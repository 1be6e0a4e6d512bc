"""From prompts to files: everybody's mask through one clip, its quality, and an overlay to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.frame_spool import Spool
from toolkit.footage.masks import iter_mask, mask_path, write_mask
from toolkit.segmentation.interfaces import Prompt, Propagate
from toolkit.segmentation.overlay import write_overlay
from toolkit.segmentation.quality_gates import measure_quality


def make_masks(
    clip: Clip,
    prompts: Mapping[str, Prompt],
    propagate: Propagate,
    overlay: Path,
    kept: Mapping[str, Path],
) -> dict[str, dict[str, Any]]:
    """Follow everybody who has a prompt; write the masks and the overlay.

    Args:
        clip: The clip.
        prompts: Whose masks to make, and where they are.
        propagate: The backend.
        overlay: The video to write, of all masks.
        kept: Masks of others that are there and stay as they are: a new one must not share its pixels with
            them.

    Returns:
        For each prompted name, `file`, `prompt` and `quality` as they stand in the clip's json.

    Raises:
        CastmixError: The clip cannot be followed, the backend gave less or other masks than asked for, or a
            kept mask cannot be read or is not of this clip.
    """
    shape = (clip.height, clip.width)
    frames = range(clip.num_frames)
    with Spool() as spool:

        def put(frame: int, name: str, mask: NDArray[np.uint8]) -> None:
            if name not in prompts or frame not in frames:
                raise CastmixError(
                    f"a mask of {name} in frame {frame}, where {len(frames)} frames were asked for"
                )
            if mask.shape != shape or mask.dtype != np.uint8:
                raise CastmixError(f"a mask of {name} is {mask.dtype} {mask.shape}, expected uint8 {shape}")
            spool.put((frame, name), mask)

        propagate(clip, prompts, put)
        for name in prompts:
            if gone := [frame for frame in frames if (frame, name) not in spool]:
                raise CastmixError(
                    f"{len(gone)} frames, from {gone[0]} on, came back without a mask of {name}"
                )
        known = _frames_of(kept, clip)
        quality = measure_quality(
            others | {name: spool.get((frame, name)) for name in prompts}
            for frame, others in enumerate(known)
        )
        files = {name: mask_path(clip, name) for name in prompts}
        for name, file in files.items():
            write_mask(file, map(spool.get, ((frame, name) for frame in frames)), clip.fps)
    write_overlay(overlay, clip, {**kept, **files})
    return {
        name: {"file": file.name, "prompt": prompts[name].as_row(), "quality": quality[name]}
        for name, file in files.items()
    }


def _frames_of(masks: Mapping[str, Path], clip: Clip) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """The masks of each frame of a clip, by name."""
    shape = (clip.height, clip.width)
    streams = {name: iter_mask(path) for name, path in masks.items()}
    for frame in range(clip.num_frames + 1):
        now = {name: mask for name, stream in streams.items() if (mask := next(stream, None)) is not None}
        if frame == clip.num_frames and not now:
            return
        for name, path in masks.items():
            if frame == clip.num_frames or name not in now or now[name].shape != shape:
                raise CastmixError(
                    f"{path} does not fit {clip.path.name}, {clip.num_frames} frames of "
                    f"{clip.width}x{clip.height}: delete it, to have it made anew"
                )
        yield now
