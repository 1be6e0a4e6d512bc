"""Finds characters in a frame by their reference pictures, with the image features of SAM 2.

After PerSAM (Zhang et al., "Personalize Segment Anything Model with One Shot", 2023):

1. The mean feature under the character in each reference picture is a prototype.
2. Where the frame's features are most similar to a prototype, a click prompts SAM 2 for a mask.
3. The mean feature under that mask is compared with the prototypes of all characters.

The mean feature of all pictures is subtracted first, because it does not distinguish characters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.captions.cast import Character
from toolkit.core.errors import CastmixError
from toolkit.footage.decoding import Frames
from toolkit.segmentation.box_matching import Detections
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.mask_iou import box_of
from toolkit.segmentation.sam2 import Track, load_sam2, to_pixels

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

CLICKS = 3
"""Points per character at which SAM 2 is prompted."""
MAX_AREA = 0.7
"""A mask with a larger share of the picture is not a character."""
PLAIN, DIFFERENT = 6.0, 24.0
"""A background is plain if its mean deviation is below PLAIN. A character pixel deviates by DIFFERENT."""
MIN_SIMILARITY = 0.3
"""Lowest similarity of a detection; see `similarity`."""

Array = NDArray[Any]
FindBoxes = Callable[[Frames], Detections]
"""Takes a frame (H, W, 3), returns boxes with a score for each character."""


def load_reference_matcher(options: Options) -> Callable[[Sequence[Character]], tuple[FindBoxes, float]]:
    """Load SAM 2; returns a function from characters to their detector and the lowest score of a box.

    Raises:
        CastmixError: The SAM 2 model is missing. The function raises it if a character has no reference
            pictures, or one cannot be read.
    """
    model = load_sam2(options.checkpoint, options.device)
    cache: dict[Path, tuple[Array, Array]] = {}

    def matcher(characters: Sequence[Character]) -> tuple[FindBoxes, float]:
        for one in characters:
            if not one.references:
                raise CastmixError(
                    f"{one.name} has no reference pictures in the cast: list some under `references`, or "
                    "use --detect describe or given"
                )
            for path in one.references:
                if path not in cache:
                    cache[path] = _reference_features(model, path)
        pictures = [[cache[path] for path in one.references] for one in characters]
        # each character has the same weight, whatever its number of pictures, and so has each background
        common = np.mean([np.mean([part for pair in pairs for part in pair], 0) for pairs in pictures], 0)
        prototypes = [np.stack([own for own, _ in pairs]) for pairs in pictures]
        return lambda frame: _find_boxes(model, frame, common, prototypes), MIN_SIMILARITY

    return matcher


def _reference_features(model: Sam2VideoModel, path: Path) -> tuple[Array, Array]:
    """Mean features of the character in a reference picture and of its surroundings, (C,) each."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise CastmixError(f"{path}: cannot be read as a picture: {error}") from error
    inside = character_mask(model, rgba)
    if not inside.any() or inside.all():
        raise CastmixError(
            f"{path}: no character found in it: give a picture with a transparent or plain background"
        )
    features = _features(model, np.ascontiguousarray(rgba[..., :3]))
    weight = _coverage(inside, features.shape[1:])
    return _mean(features, weight), _mean(features, 1 - weight)


def character_mask(model: Sam2VideoModel, rgba: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The mask (H, W) of the character in a reference picture (H, W, 4).

    By transparency; else by difference from a plain background; else by prompting SAM 2 in the middle.
    """
    if (rgba[..., 3] < 255).any():
        return np.asarray(rgba[..., 3] >= 128)
    picture = rgba[..., :3].astype(np.float32)
    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    background = np.median(rim, 0)
    if np.abs(rim - background).mean() < PLAIN:
        return np.asarray(np.abs(picture - background).max(-1) > DIFFERENT)
    height, width = rgba.shape[:2]
    clicked = _masks(model, rgba[..., :3], [Prompt(0, points=((width / 2, height / 2, True),))])[0]
    box = box_of(clicked)
    return clicked if box is None else _masks(model, rgba[..., :3], [Prompt(0, box)])[0]


def _find_boxes(
    model: Sam2VideoModel, frame: Frames, common: Array, prototypes: Sequence[Array]
) -> Detections:
    """Boxes of the masks at the most similar points of a frame, with their similarity to each character.

    common: (C,), mean feature of the reference pictures. prototypes: (pictures, C) for each character.
    """
    features = _features(model, frame)
    common = (common + features.mean((1, 2))) / 2
    cells = np.moveaxis(features, 0, -1) - common
    grid, (height, width) = cells.shape[:2], frame.shape[:2]
    spots = {spot for own in prototypes for spot in _peaks(similarity(cells, own - common))}
    clicks = [
        Prompt(0, points=(((column + 0.5) / grid[1] * width, (row + 0.5) / grid[0] * height, True),))
        for row, column in sorted(spots)
    ]
    boxes, scores = [], []
    for mask in _masks(model, frame, clicks):
        box = box_of(mask)
        if box is None or mask.mean() > MAX_AREA:
            continue
        mean = _mean(features, _coverage(mask, grid)) - common
        boxes.append(box)
        scores.append([float(similarity(mean, own - common)) for own in prototypes])
    return Detections(
        np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores).reshape(-1, len(prototypes))
    )


def _peaks(values: Array) -> list[tuple[int, int]]:
    """The `CLICKS` largest cells of a map (h, w), no two of them adjacent."""
    left, spots = values.copy(), []
    for _ in range(CLICKS):
        row, column = (int(i) for i in np.unravel_index(left.argmax(), left.shape))
        spots.append((row, column))
        left[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -np.inf
    return spots


def _masks(model: Sam2VideoModel, frame: Frames, prompts: Sequence[Prompt]) -> list[NDArray[np.bool_]]:
    """SAM 2's mask for each prompt in one frame."""
    pixels = to_pixels(frame[None], model.config.image_size).to(model.device)[0]
    tracks = [Track(model, prompt, (1, *frame.shape[:2])) for prompt in prompts]
    for one in tracks:
        one.session.cache = tracks[0].session.cache
    return [one.step(0, pixels) > 0 for one in tracks]


def _features(model: Sam2VideoModel, frame: Frames) -> Array:
    """The coarsest image features of a frame, (C, h, w)."""
    import torch

    pixels = to_pixels(frame[None], model.config.image_size).to(model.device)
    with torch.inference_mode():
        top = model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
    side = model.backbone_feature_sizes[-1]
    return np.asarray(top[:, 0].T.reshape(-1, *side).float().cpu().numpy())


def _coverage(mask: NDArray[np.bool_], grid: tuple[int, ...]) -> Array:
    """The share of each cell of a grid (h, w) that a mask covers, 0 to 1."""
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA))


def _mean(features: Array, weight: Array) -> Array:
    """Weighted mean of features (C, h, w) with weights (h, w): (C,)."""
    return np.asarray((features * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6))


def similarity(features: Array, samples: Array) -> Array:
    """Mean similarity of features (..., C) to samples (N, C): (...), -1 to 1.

    It is the cosine, scaled down where a feature is shorter than the sample: short features are close to the
    common mean.
    """
    size = np.linalg.norm(samples, axis=-1)
    strength = np.maximum(np.linalg.norm(features, axis=-1)[..., None], size)
    return np.asarray((features @ samples.T / np.maximum(strength * size, 1e-9)).mean(-1))
