"""From prompts to files: everybody's mask through one clip, its quality, and an overlay to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.data import Clip
from toolkit.errors import CastmixError
from toolkit.masks import mask_path, write_mask
from toolkit.segmentation.gates import measure_quality
from toolkit.segmentation.overlay import write_overlay
from toolkit.segmentation.prompt import Prompt, Propagate
from toolkit.segmentation.spool import Spool


def make_masks(
    clip: Clip, prompts: Mapping[str, Prompt], propagate: Propagate, overlay: Path
) -> dict[str, dict[str, Any]]:
    """Follow everybody who has a prompt; write the masks and the overlay.

    Returns:
        For each name, `file`, `prompt` and `quality` as they stand in the clip's json.

    Raises:
        CastmixError: The clip cannot be followed, or the backend gave less or other masks than asked for.
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
        quality = measure_quality({name: spool.get((frame, name)) for name in prompts} for frame in frames)
        files = {name: mask_path(clip, name) for name in prompts}
        for name, file in files.items():
            write_mask(file, map(spool.get, ((frame, name) for frame in frames)), clip.fps)
    write_overlay(overlay, clip, files)
    return {
        name: {"file": file.name, "prompt": prompts[name].as_row(), "quality": quality[name]}
        for name, file in files.items()
    }
