"""CLIP and DINO scores: cosine similarities of image and text features, through transformers.

Pictures are padded to a square with the model's mean colour, so that nothing at the sides is cropped. Then
the model's own processor is applied. Features are normalised to length 1. All frames of a video are used.
Weights must be on this machine.
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
from toolkit.evaluation.videos import (
    Measure,
    Measurement,
    ReadFrames,
    References,
    Video,
    characters_in,
    plain_prompt,
)
from toolkit.footage.decoding import Frames
from toolkit.models.registry import default_device
from toolkit.models.weights import local_folder

if TYPE_CHECKING:
    from torch import Tensor

CLIP_COLUMNS = {
    "clip_t": "cosine similarity of CLIP features of each frame and of the prompt without tags, mean over "
    "frames; CLIP reads the first 77 tokens",
    "clip_i": "cosine similarity of CLIP features of each frame and of each reference picture, mean over "
    "frames and pictures, then over the characters named in the prompt",
    "temporal_consistency": "cosine similarity of CLIP features of neighbouring frames, mean over a video",
}
DINO_COLUMNS = {"dino_i": "as clip_i, with DINO's features (the CLS token)"}

EmbedImages = Callable[[Iterable[Frames]], "Tensor"]
"""Takes pictures (H, W, 3) uint8, returns features (N, D) of length 1, float32 on the CPU."""


@dataclass(frozen=True)
class FeatureMetric:
    """A measure, and what its numbers depend on besides the video and its prompt (for the cache)."""

    measure: Measure
    depends_on: list[str]


def clip_metric(references: References, cast: Cast, settings: Features) -> FeatureMetric:
    """The measure of `CLIP_COLUMNS`.

    Raises:
        CastmixError: The model is not on this machine, or is not a CLIP model.
    """
    import torch
    from transformers import AutoTokenizer

    model, processor, weights = _load("clip", settings.clip, CLIP_COLUMNS, settings)
    if not hasattr(model, "get_text_features"):
        raise CastmixError(f"--features.clip {settings.clip} has no text encoder: expected a CLIP model")
    tokenizer: Any = AutoTokenizer.from_pretrained(local_folder(settings.clip))

    def embed_text(text: str) -> Tensor:
        limit = model.config.text_config.max_position_embeddings
        tokens = tokenizer([text], truncation=True, max_length=limit, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            return _normalised(model.get_text_features(**tokens).pooler_output)

    def embed(pixels: Tensor) -> Tensor:
        found: Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return found

    embed_images = _image_embedder(processor, embed, model.device, settings.batch_size)
    pictured = _reference_features(embed_images, references)

    def measure(video: Video, read_frames: ReadFrames) -> Measurement:
        frames = embed_images(read_frames()[0])
        similarity, problems = _reference_similarity("clip_i", frames, video, cast, pictured)
        neighbours = (frames[1:] * frames[:-1]).sum(-1).mean() if len(frames) > 1 else None
        values = {
            "clip_t": float((frames @ embed_text(plain_prompt(video.prompt)).T).mean()),
            "clip_i": similarity,
            "temporal_consistency": None if neighbours is None else float(neighbours),
        }
        return Measurement(values, problems)

    return FeatureMetric(measure, ["clip", settings.clip, *weights, *_reference_fingerprints(references)])


def dino_metric(references: References, cast: Cast, settings: Features) -> FeatureMetric:
    """The measure of `DINO_COLUMNS`; raises as `clip_metric`."""
    model, processor, weights = _load("dino", settings.dino, DINO_COLUMNS, settings)

    def embed(pixels: Tensor) -> Tensor:
        found: Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
        return found

    embed_images = _image_embedder(processor, embed, model.device, settings.batch_size)
    pictured = _reference_features(embed_images, references)

    def measure(video: Video, read_frames: ReadFrames) -> Measurement:
        frames = embed_images(read_frames()[0])
        similarity, problems = _reference_similarity("dino_i", frames, video, cast, pictured)
        return Measurement({"dino_i": similarity}, problems)

    return FeatureMetric(measure, ["dino", settings.dino, *weights, *_reference_fingerprints(references)])


def _load(family: str, model: str, columns: Iterable[str], settings: Features) -> tuple[Any, Any, list[str]]:
    """Load a model: the network, its image processor and the fingerprints of its weights."""
    from transformers import AutoImageProcessor, AutoModel

    folder = local_folder(model)
    if folder is None:
        raise CastmixError(
            f"{family} ({', '.join(columns)}) needs {model}, which is not on this machine: download it with "
            f"`hf download {model}`, give its folder as --features.{family}, or choose others with --metrics"
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


def _image_embedder(
    processor: Any, embed: Callable[[Tensor], Tensor], device: Any, batch_size: int
) -> EmbedImages:
    import torch

    grey = np.asarray(processor.image_mean, np.float64) * 255

    def embed_images(pictures: Iterable[Frames]) -> Tensor:
        squares = [_square(picture, grey) for picture in pictures]
        parts = []
        for start in range(0, len(squares), batch_size):
            batch = squares[start : start + batch_size]
            pixels = processor(images=batch, return_tensors="pt")["pixel_values"].to(device)
            with torch.inference_mode():
                parts.append(_normalised(embed(pixels)))
        return torch.cat(parts)

    return embed_images


def _normalised(features: Tensor) -> Tensor:
    unit: Tensor = features.float() / features.float().norm(dim=-1, keepdim=True)
    return unit.cpu()


def _square(picture: Frames, grey: np.ndarray) -> Frames:
    """Pad a picture (H, W, 3) to a square, centred."""
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = grey.round()
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _reference_features(embed_images: EmbedImages, references: References) -> dict[str, Tensor]:
    """Features of the reference pictures, (N, D) by character name."""
    from PIL import Image

    def read(path: Path) -> Frames:
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise CastmixError(f"{path} cannot be read as a picture: {error}") from error

    return {name: embed_images([read(path) for path in paths]) for name, paths in references.items()}


def _reference_similarity(
    column: str, frames: Tensor, video: Video, cast: Cast, pictured: Mapping[str, Tensor]
) -> tuple[float | None, tuple[tuple[str, str], ...]]:
    """Mean over the prompt's characters of the mean cosine with their reference pictures.

    None if no character has one. The second value is a problem that names the characters without pictures.
    """
    names = characters_in(video.prompt, cast)
    found = [float((frames @ pictured[name].T).mean()) for name in names if name in pictured]
    without = [name for name in names if name not in pictured]
    problems = ((column, f"no reference picture of {', '.join(without)}"),) if without else ()
    return (sum(found) / len(found) if found else None), problems


def _reference_fingerprints(references: References) -> list[str]:
    return [f"{name} {fingerprint_file(path)}" for name, paths in references.items() for path in paths]
