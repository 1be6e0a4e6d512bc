"""Backend "sam2-package": tracks characters with SAM 2 through Meta's `sam2` package, if it is installed.

The package reads a folder of pictures and keeps all frames and all memories. So a long clip is tracked in
chunks. A chunk begins with the last frame of the previous one and the mask found there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames, VideoReader
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.models.registry import default_device
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, StoreMask

CHUNK = 256
"""Frames in memory at a time."""
INSTALL = "SAM2_BUILD_CUDA=0 pip install --no-build-isolation --no-deps sam2 && pip install hydra-core iopath"


def sam2_package_tracker(options: Options) -> Propagate:
    """A tracker with the `sam2` package; `options.checkpoint` is a hub id that the package knows.

    Raises:
        CastmixError: The package is not installed, or does not know the model.
    """
    predictor = load_predictor(options)

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        with DiskArrays() as pictures:
            count = 0
            with VideoReader(clip.path) as reader:
                for count, frame in enumerate(reader, 1):
                    pictures.put(count - 1, frame.rgb())
            if count != clip.num_frames:
                raise CastmixError(
                    f"{clip.path} has {count} readable frames, its json says {clip.num_frames}: "
                    "prepare the clip again"
                )
            for name, prompt in prompts.items():
                for order in (range(prompt.frame, count), range(prompt.frame, -1, -1)):
                    frames = ((number, pictures.get(number)) for number in order)
                    for number, mask in _track(predictor, frames, prompt):
                        if (
                            number != prompt.frame or order.step == 1
                        ):  # both directions yield the prompt's frame
                            store(number, name, mask)

    return propagate


def load_predictor(options: Options) -> Any:
    """The package's video predictor for a hub id such as facebook/sam2.1-hiera-large.

    Raises:
        CastmixError: The package is not installed, or does not know the model.
    """
    try:
        from sam2.build_sam import (  # type: ignore[import-not-found]
            HF_MODEL_ID_TO_FILENAMES,
            build_sam2_video_predictor_hf,
        )
    except ImportError as error:
        raise CastmixError(
            f"the backend sam2-package needs the `sam2` package ({error}): install it with `{INSTALL}`, "
            "which does not change torch, or use the backend sam2, which runs the same models without it"
        ) from error
    if options.checkpoint not in HF_MODEL_ID_TO_FILENAMES:
        known = ", ".join(HF_MODEL_ID_TO_FILENAMES)
        raise CastmixError(
            f"--checkpoint {options.checkpoint}: the sam2 package knows {known}; for a folder or the "
            "sandbox's own model use the backend sam2"
        )
    device = options.device or default_device()
    try:
        return build_sam2_video_predictor_hf(options.checkpoint, device=device)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise CastmixError(
            f"--checkpoint {options.checkpoint} cannot be downloaded: {reason:.300}"
        ) from error


def _track(
    predictor: Any, frames: Iterator[tuple[int, Frames]], prompt: Prompt
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frame numbers and masks of (number, frame) pairs, of which the first is the prompt's frame."""
    begin: Prompt | NDArray[np.uint8] = prompt
    last: list[tuple[int, Frames]] = []
    while new := list(islice(frames, CHUNK)):
        chunk = last + new
        for index, mask in enumerate(_masks(predictor, [frame for _, frame in chunk], begin)):
            if index >= len(last):
                yield chunk[index][0], mask
            begin = mask
        last = chunk[-1:]


def _masks(
    predictor: Any, frames: list[Frames], begin: Prompt | NDArray[np.uint8]
) -> Iterator[NDArray[np.uint8]]:
    """The masks of a chunk of frames, from a prompt or a mask in its first frame."""
    import torch
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(Path(folder) / f"{number:05d}.jpg", quality=98)
        state = predictor.init_state(folder, offload_video_to_cpu=True)
        if isinstance(begin, Prompt):
            points = np.asarray([point[:2] for point in begin.points], np.float32)
            labels = np.asarray([is_positive for *_, is_positive in begin.points], np.int32)
            predictor.add_new_points_or_box(
                state, 0, 1,
                points=points if len(points) else None,
                labels=labels if len(points) else None,
                box=None if begin.box is None else np.asarray(begin.box, np.float32),
            )  # fmt: skip
        else:
            predictor.add_new_mask(state, 0, 1, torch.from_numpy(begin > 0))
        for _, _, logits in predictor.propagate_in_video(state):
            yield np.asarray((logits[0, 0] > 0).cpu().numpy(), np.uint8) * np.uint8(255)
