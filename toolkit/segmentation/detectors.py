"""Detectors "describe" and "reference": find characters by their descriptions or reference pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.captions.cast import Character
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.decoding import Frames
from toolkit.models.registry import default_device
from toolkit.models.weights import local_folder
from toolkit.segmentation.box_matching import Detections, best_prompts, sampled_frames
from toolkit.segmentation.interfaces import Detect, Options, Prompt
from toolkit.segmentation.reference_matching import load_reference_matcher
from toolkit.segmentation.sam2 import to_pixels

if TYPE_CHECKING:
    from torch import Tensor

DETECTOR = "IDEA-Research/grounding-dino-tiny"
MIN_SCORE = {"grounding-dino": 0.25, "owlv2": 0.1, "owlvit": 0.1}
"""Lowest score of a box for each kind of model, as recommended by its authors."""

CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of RGB in 0..1, with which CLIP and OWL normalise their input."""
SHORT, LONG = 800, 1333
"""Sides of a picture in pixels, as in GroundingDINO's training."""

FindBoxes = Callable[[Frames, Sequence[str]], Detections]
"""Takes a frame and one text per character, returns boxes with a score for each text."""


def description_detector(options: Options) -> Detect:
    """A detector that finds characters by their descriptions in the cast, with an open-vocabulary model.

    `options.detector` is a GroundingDINO, OWLv2 or OWL-ViT model: a folder, or the hub id of a downloaded
    model.

    Raises:
        CastmixError: The model is missing or of another kind. The detector raises it if a character has no
            description.
    """
    find_boxes, min_score = load_detector(options.detector or DETECTOR, options.device)

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        for one in characters:
            if not one.description:
                raise CastmixError(
                    f"{one.name} has no description in the cast: write one, or use --detect reference or "
                    "given"
                )
        if not characters:
            return {}
        texts = [one.description for one in characters]
        found = ((number, find_boxes(frame, texts)) for number, frame in sampled_frames(clip))
        return best_prompts([one.name for one in characters], found, min_score)

    return detect


def reference_detector(options: Options) -> Detect:
    """A detector that finds characters by their reference pictures, with SAM 2's image features.

    `options.checkpoint` is the SAM 2 model.

    Raises:
        CastmixError: The model is missing. The detector raises it if a character has no reference pictures.
    """
    matcher = load_reference_matcher(options)

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        if not characters:
            return {}
        find_boxes, min_score = matcher(characters)
        found = ((number, find_boxes(frame)) for number, frame in sampled_frames(clip))
        return best_prompts([one.name for one in characters], found, min_score)

    return detect


def load_detector(model: str, device: str | None = None) -> tuple[FindBoxes, float]:
    """Load an open-vocabulary detector; returns its function and the lowest score of a box.

    Raises:
        CastmixError: The model is not on this machine, cannot be loaded, or is of a kind not in `MIN_SCORE`.
    """
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoTokenizer

    folder = local_folder(model)
    if folder is None:
        raise CastmixError(
            f"the detector {model} is not on this machine: download it with `hf download {model}`, give the "
            "folder of a GroundingDINO or OWLv2 model as --detector, or use --detect reference or given"
        )
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in MIN_SCORE:
            raise CastmixError(
                f"--detector {model} is a {kind} model: expected one of {', '.join(MIN_SCORE)}"
            )
        network: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"--detector {model} cannot be loaded: {reason:.300}") from error
    network = network.to(device or default_device()).eval()
    find = _grounding_dino_boxes if kind == "grounding-dino" else _owl_boxes
    return lambda frame, texts: find(network, tokenizer, frame, texts), MIN_SCORE[kind]


def _grounding_dino_boxes(network: Any, tokenizer: Any, frame: Frames, texts: Sequence[str]) -> Detections:
    """GroundingDINO reads all texts as one caption. A box's score for a text is the mean over its tokens."""
    import torch

    # a full stop ends a phrase: attention does not cross phrases
    phrases = [text.lower().translate(str.maketrans(".?", ",,")).strip(" ,") for text in texts]
    words = tokenizer(". ".join(phrases) + ".", return_tensors="pt")
    ids = words["input_ids"][0]
    if len(ids) > network.config.max_text_len:
        raise CastmixError(
            f"the descriptions of {len(texts)} characters have {len(ids)} tokens in total, limit "
            f"{network.config.max_text_len}: shorten them, or name fewer characters"
        )
    stops = (ids == tokenizer.convert_tokens_to_ids(".")).nonzero()[:, 0].tolist()
    spans = list(zip([1, *(stop + 1 for stop in stops)], stops, strict=False))
    height, width = frame.shape[:2]
    scale = min(SHORT / min(height, width), LONG / max(height, width))
    pixels = to_pixels(frame[None], (round(height * scale), round(width * scale))).to(network.device)
    with torch.inference_mode():
        out = network(pixel_values=pixels, **words.to(network.device))
    probability = out.logits[0].float().sigmoid()
    scores = torch.stack([probability[:, first:stop].mean(1) for first, stop in spans], 1)
    return _detections(out.pred_boxes[0], scores, width, height)


def _owl_boxes(network: Any, tokenizer: Any, frame: Frames, texts: Sequence[str]) -> Detections:
    """OWL reads each text separately. OWLv2 gets the frame padded to a square, OWL-ViT gets it stretched."""
    import torch

    length = network.config.text_config.max_position_embeddings
    words = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    height, width = frame.shape[:2]
    if network.config.model_type == "owlv2":
        height = width = max(height, width)
        square = np.zeros((height, width, 3), np.uint8)
        square[: frame.shape[0], : frame.shape[1]] = frame
        frame = square
    side = network.config.vision_config.image_size
    pixels = to_pixels(frame[None], (side, side), CLIP_NORM).to(network.device)
    with torch.inference_mode():
        out = network(pixel_values=pixels, **words.to(network.device))
    return _detections(out.pred_boxes[0], out.logits[0].float().sigmoid(), width, height)


def _detections(boxes: Tensor, scores: Tensor, width: int, height: int) -> Detections:
    """Convert relative boxes (N, 4) x, y (of the centre), width, height to pixels; scores (N, characters)."""
    x, y, w, h = (boxes.float().cpu().numpy().astype(np.float64) * [width, height, width, height]).T
    edges = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    return Detections(edges.clip(0, [width, height, width, height]), scores.cpu().numpy().astype(np.float64))
