"""Likeness of a frame's parts to a character's pictures, by the image features of SAM 2.

After PerSAM (Zhang et al., "Personalize Segment Anything Model with One Shot", 2023): the features under the
character in its pictures are its prototypes; where a frame resembles them most, a click asks SAM 2 for a
mask, and the mask's own features say whose it is. What all pictures have in common says nothing and is taken
off.
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
from toolkit.segmentation.box_matching import Found
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.mask_iou import box_of
from toolkit.segmentation.sam2 import Track, load_sam2, to_pixels

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

PEAKS = 3  # places in a frame where each character is looked for
LARGEST = 0.7  # part of the picture above which a mask is no character
PLAIN, APART = 6.0, 24.0  # how even a plain background is, and how far from it the character; of 255
LEAST = 0.3
"""The likeness from which on a box counts: 1 is the same, 0 has nothing in common but what all have."""

Array = NDArray[Any]
Compare = Callable[[Frames], Found]


def load_likeness(options: Options) -> Callable[[Sequence[Character]], tuple[Compare, float]]:
    """A function of characters that gives what finds them in a frame, and the score from which on it counts.

    Raises:
        CastmixError: No such SAM 2 model; for a character, no pictures, or one that cannot be read.
    """
    model = load_sam2(options.checkpoint, options.device)
    known: dict[Path, tuple[Array, Array]] = {}

    def like(characters: Sequence[Character]) -> tuple[Compare, float]:
        for one in characters:
            if not one.references:
                raise CastmixError(
                    f"{one.name} has no reference pictures in the cast: name some under `references`, or "
                    "take --detect describe or given"
                )
            for path in one.references:
                if path not in known:
                    known[path] = _halves(model, path)
        pictures = [[known[path] for path in one.references] for one in characters]
        # a picture's character and its background weigh the same, whoever has more pictures
        common = np.mean([np.mean([half for pair in pairs for half in pair], 0) for pairs in pictures], 0)
        wanted = [np.stack([own for own, _ in pairs]) for pairs in pictures]
        return lambda frame: _compare(model, frame, common, wanted), LEAST

    return like


def _halves(model: Sam2VideoModel, path: Path) -> tuple[Array, Array]:
    """The mean features of a picture's character and of all around it, (C,) each."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            rgba = np.asarray(image.convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise CastmixError(f"{path}: cannot be read as a picture: {error}") from error
    inside = character_mask(model, rgba)
    if not inside.any() or inside.all():
        raise CastmixError(f"{path}: no character found in it: cut it out, on a plain or no background")
    features = _features(model, np.ascontiguousarray(rgba[..., :3]))
    weight = _shrunk(inside, features.shape[1:])
    return _mean(features, weight), _mean(features, 1 - weight)


def character_mask(model: Sam2VideoModel, rgba: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the character is in its picture (H, W, 4).

    By transparency, else by difference from a plain background, else what SAM 2 sees in its middle.
    """
    if (rgba[..., 3] < 255).any():
        return np.asarray(rgba[..., 3] >= 128)
    picture = rgba[..., :3].astype(np.float32)
    rim = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    background = np.median(rim, 0)
    if np.abs(rim - background).mean() < PLAIN:
        return np.asarray(np.abs(picture - background).max(-1) > APART)
    height, width = rgba.shape[:2]
    clicked = _masks(model, rgba[..., :3], [Prompt(0, points=((width / 2, height / 2, True),))])[0]
    box = box_of(clicked)
    return clicked if box is None else _masks(model, rgba[..., :3], [Prompt(0, box)])[0]


def _compare(model: Sam2VideoModel, frame: Frames, common: Array, wanted: Sequence[Array]) -> Found:
    """Boxes of what a frame shows where it is most like the characters, and how like each they are."""
    features = _features(model, frame)
    common = (common + features.mean((1, 2))) / 2
    cells = np.moveaxis(features, 0, -1) - common
    grid, (height, width) = cells.shape[:2], frame.shape[:2]
    spots = {spot for own in wanted for spot in _peaks(alike(cells, own - common))}
    clicks = [
        Prompt(0, points=(((column + 0.5) / grid[1] * width, (row + 0.5) / grid[0] * height, True),))
        for row, column in sorted(spots)
    ]
    boxes, scores = [], []
    for mask in _masks(model, frame, clicks):
        box = box_of(mask)
        if box is None or mask.mean() > LARGEST:
            continue
        own = _mean(features, _shrunk(mask, grid)) - common
        boxes.append(box)
        scores.append([float(alike(own, samples - common)) for samples in wanted])
    return Found(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores).reshape(-1, len(wanted)))


def _peaks(likeness: Array) -> list[tuple[int, int]]:
    """The `PEAKS` cells of a map (h, w) that are largest, no two of them neighbours."""
    left, spots = likeness.copy(), []
    for _ in range(PEAKS):
        row, column = (int(i) for i in np.unravel_index(left.argmax(), left.shape))
        spots.append((row, column))
        left[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = -np.inf
    return spots


def _masks(model: Sam2VideoModel, frame: Frames, prompts: Sequence[Prompt]) -> list[NDArray[np.bool_]]:
    """What SAM 2 sees for each prompt in one frame."""
    pixels = to_pixels(frame[None], model.config.image_size).to(model.device)[0]
    tracks = [Track(model, prompt, (1, *frame.shape[:2])) for prompt in prompts]
    for one in tracks:
        one.session.cache = tracks[0].session.cache
    return [one.step(0, pixels) > 0 for one in tracks]


def _features(model: Sam2VideoModel, frame: Frames) -> Array:
    """The coarsest features of a frame, (C, h, w)."""
    import torch

    pixels = to_pixels(frame[None], model.config.image_size).to(model.device)
    with torch.inference_mode():
        top = model.get_image_features(pixels, return_dict=True).fpn_hidden_states[-1]
    side = model.backbone_feature_sizes[-1]
    return np.asarray(top[:, 0].T.reshape(-1, *side).float().cpu().numpy())


def _shrunk(mask: NDArray[np.bool_], grid: tuple[int, ...]) -> Array:
    """Which part of each cell of a grid (h, w) a mask covers, 0..1."""
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA))


def _mean(features: Array, weight: Array) -> Array:
    """The mean of features (C, h, w) by weights (h, w): (C,)."""
    return np.asarray((features * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6))


def alike(features: Array, samples: Array) -> Array:
    """How like samples (N, C), on average, features (..., C) are: (...).

    Their cosine; less for features that are weaker than the sample, as those of what is common everywhere.
    """
    size = np.linalg.norm(samples, axis=-1)
    strength = np.maximum(np.linalg.norm(features, axis=-1)[..., None], size)
    return np.asarray((features @ samples.T / np.maximum(strength * size, 1e-9)).mean(-1))
