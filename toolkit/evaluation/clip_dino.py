"""Cosines of image and text features: CLIP and DINO through transformers, from weights on this machine.

A picture is padded to a square with the model's grey, so that nobody at the sides is cut off, and then goes
through the model's own processor. Features have length 1; every frame of a video counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.captions.cast import Cast
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.evaluation.settings import Features
from toolkit.evaluation.videos import Footage, Measure, Measured, References, Video, characters, plain
from toolkit.footage.decoding import Frames
from toolkit.models.registry import default_device
from toolkit.models.weights import local_folder

if TYPE_CHECKING:
    from torch import Tensor

CLIP_COLUMNS = {
    "clip_t": "cosine of the CLIP features of a frame and of the prompt without its tags, mean over frames; "
    "CLIP reads the first 77 tokens",
    "clip_i": "cosine of the CLIP features of a frame and of a reference picture, mean over frames and "
    "pictures, then over the characters that the prompt names",
    "temporal_consistency": "cosine of the CLIP features of neighbouring frames, mean over a video",
}
DINO_COLUMNS = {"dino_i": "as clip_i, with DINO's features (the CLS token)"}

Images = Callable[[Iterable[Frames]], "Tensor"]
"""Pictures (H, W, 3) uint8 → features (N, D) of length 1, float32 on the CPU."""


@dataclass(frozen=True)
class Meter:
    """A measure, and what its numbers depend on besides the video and its prompt."""

    measure: Measure
    basis: list[str]


def clip_meter(references: References, cast: Cast, settings: Features) -> Meter:
    """Measures `CLIP_COLUMNS`.

    Raises:
        CastmixError: The weights are not on this machine, or are no CLIP.
    """
    import torch
    from transformers import AutoTokenizer

    model, processor, weights = _load("clip", settings.clip, CLIP_COLUMNS, settings)
    if not hasattr(model, "get_text_features"):
        raise CastmixError(f"--features.clip {settings.clip} has no text side: expected a CLIP model")
    tokenizer: Any = AutoTokenizer.from_pretrained(local_folder(settings.clip))

    def words(text: str) -> Tensor:
        limit = model.config.text_config.max_position_embeddings
        tokens = tokenizer([text], truncation=True, max_length=limit, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return _unit(model.get_text_features(**tokens).pooler_output)

    def embed(pixels: Tensor) -> Tensor:
        found: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return found

    images = _images(processor, embed, model.device, settings.batch_size)
    pictured = _pictured(images, references)

    def measure(video: Video, footage: Footage) -> Measured:
        frames = images(footage()[0])
        likeness, problems = _likeness("clip_i", frames, video, cast, pictured)
        neighbours = (frames[1:] * frames[:-1]).sum(-1).mean() if len(frames) > 1 else None
        values = {
            "clip_t": float((frames @ words(plain(video.prompt)).T).mean()),
            "clip_i": likeness,
            "temporal_consistency": None if neighbours is None else float(neighbours),
        }
        return Measured(values, problems)

    return Meter(measure, ["clip", settings.clip, *weights, *_prints(references)])


def dino_meter(references: References, cast: Cast, settings: Features) -> Meter:
    """Measures `DINO_COLUMNS`; raises as `clip_meter` does."""
    model, processor, weights = _load("dino", settings.dino, DINO_COLUMNS, settings)

    def embed(pixels: Tensor) -> Tensor:
        found: Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
        return found

    images = _images(processor, embed, model.device, settings.batch_size)
    pictured = _pictured(images, references)

    def measure(video: Video, footage: Footage) -> Measured:
        likeness, problems = _likeness("dino_i", images(footage()[0]), video, cast, pictured)
        return Measured({"dino_i": likeness}, problems)

    return Meter(measure, ["dino", settings.dino, *weights, *_prints(references)])


def _load(family: str, model: str, columns: Iterable[str], settings: Features) -> tuple[Any, Any, list[str]]:
    """The network, its image processor and the fingerprints of its weights."""
    from transformers import AutoImageProcessor, AutoModel

    folder = local_folder(model)
    if folder is None:
        raise CastmixError(
            f"{family} ({', '.join(columns)}) needs {model}, which is not on this machine: fetch it with "
            f"`hf download {model}`, give its folder as --features.{family}, or leave it out with --metrics"
        )
    try:
        network: Any = AutoModel.from_pretrained(folder)
        processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"--features.{family} {model} cannot be loaded: {reason:.300}") from error
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    network = network.to(settings.device or default_device()).eval()
    return network, processor, [fingerprint_file(path) for path in files]


def _images(processor: Any, embed: Callable[[Tensor], Tensor], device: Any, batch_size: int) -> Images:
    import torch

    grey = np.asarray(processor.image_mean, np.float64) * 255

    def images(pictures: Iterable[Frames]) -> Tensor:
        squares = [_square(picture, grey) for picture in pictures]
        parts = []
        for start in range(0, len(squares), batch_size):
            batch = squares[start : start + batch_size]
            pixels = processor(images=batch, return_tensors="pt")["pixel_values"].to(device)
            with torch.inference_mode():
                parts.append(_unit(embed(pixels)))
        return torch.cat(parts)

    return images


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = features.float() / features.float().norm(dim=-1, keepdim=True)
    return unit.cpu()


def _square(picture: Frames, grey: np.ndarray) -> Frames:
    """The picture (H, W, 3) in the middle of a square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = grey.round()
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _pictured(images: Images, references: References) -> dict[str, Tensor]:
    """Features of the references, (N, D) by name."""
    from PIL import Image

    def read(path: Path) -> Frames:
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise CastmixError(f"{path} cannot be read as a picture: {error}") from error

    return {name: images([read(path) for path in paths]) for name, paths in references.items()}


def _likeness(
    column: str, frames: Tensor, video: Video, cast: Cast, pictured: Mapping[str, Tensor]
) -> tuple[float | None, tuple[tuple[str, str], ...]]:
    """Mean over the prompt's characters of the mean cosine with their references; and who has none."""
    names = characters(video.prompt, cast)
    found = [float((frames @ pictured[name].T).mean()) for name in names if name in pictured]
    without = [name for name in names if name not in pictured]
    problems = ((column, f"no reference picture of {', '.join(without)}"),) if without else ()
    return (sum(found) / len(found) if found else None), problems


def _prints(references: References) -> list[str]:
    return [f"{name} {fingerprint_file(path)}" for name, paths in references.items() for path in paths]
