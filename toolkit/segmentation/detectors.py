"""Detectors "describe" and "reference": where a character is, by its description or by its pictures."""

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
from toolkit.segmentation.box_matching import Found, best_prompts, sampled
from toolkit.segmentation.interfaces import Detect, Options, Prompt
from toolkit.segmentation.reference_matching import load_likeness
from toolkit.segmentation.sam2 import to_pixels

if TYPE_CHECKING:
    from torch import Tensor

DETECTOR = "IDEA-Research/grounding-dino-tiny"
LEAST = {"grounding-dino": 0.25, "owlv2": 0.1, "owlvit": 0.1}
"""Models by kind, and the score from which on a box counts, as their authors advise."""

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SHORT, LONG = 800, 1333  # pixels along the sides of a picture, as GroundingDINO was trained

Look = Callable[[Frames, Sequence[str]], Found]
"""Boxes in a frame for texts."""


def describe(options: Options) -> Detect:
    """Find characters by their descriptions in the cast, with an open-vocabulary detector.

    `options.detector` is a GroundingDINO, OWLv2 or OWL-ViT model: a folder, or a hub id fetched before.

    Raises:
        CastmixError: No such model; for a character, no description.
    """
    look, least = load_detector(options.detector or DETECTOR, options.device)

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        for one in characters:
            if not one.description:
                raise CastmixError(
                    f"{one.name} has no description in the cast: write one, or take --detect reference or "
                    "given"
                )
        if not characters:
            return {}
        texts = [one.description for one in characters]
        seen = ((number, look(frame, texts)) for number, frame in sampled(clip))
        return best_prompts([one.name for one in characters], seen, least)

    return detect


def reference(options: Options) -> Detect:
    """Find characters by their pictures in the cast, with the features of the SAM 2 `options.checkpoint`.

    Raises:
        CastmixError: No such model; for a character, no pictures.
    """
    like = load_likeness(options)

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        if not characters:
            return {}
        compare, least = like(characters)
        seen = ((number, compare(frame)) for number, frame in sampled(clip))
        return best_prompts([one.name for one in characters], seen, least)

    return detect


def load_detector(model: str, device: str | None = None) -> tuple[Look, float]:
    """What an open-vocabulary detector sees in a frame, and the score from which on it counts.

    Raises:
        CastmixError: It is not on this machine, cannot be loaded, or is of another kind than `LEAST` knows.
    """
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoTokenizer

    folder = local_folder(model)
    if folder is None:
        raise CastmixError(
            f"the detector {model} is not on this machine: fetch it with `hf download {model}`, give the "
            "folder of a GroundingDINO or OWLv2 model as --detector, or take --detect reference or given"
        )
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in LEAST:
            raise CastmixError(f"--detector {model} is a {kind} model: expected one of {', '.join(LEAST)}")
        network: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise CastmixError(f"--detector {model} cannot be loaded: {reason:.300}") from error
    network = network.to(device or default_device()).eval()
    see = _see_phrases if kind == "grounding-dino" else _see_queries
    return lambda frame, texts: see(network, tokenizer, frame, texts), LEAST[kind]


def _see_phrases(network: Any, tokenizer: Any, frame: Frames, texts: Sequence[str]) -> Found:
    """GroundingDINO reads all texts as one caption; a box's score is the mean over a text's words."""
    import torch

    # a full stop ends a phrase: the words of different phrases do not see each other
    phrases = [text.lower().translate(str.maketrans(".?", ",,")).strip(" ,") for text in texts]
    words = tokenizer(". ".join(phrases) + ".", return_tensors="pt")
    ids = words["input_ids"][0]
    if len(ids) > network.config.max_text_len:
        raise CastmixError(
            f"the descriptions of {len(texts)} characters have {len(ids)} words and parts of words together, "
            f"{network.config.max_text_len} fit: shorten them, or name fewer characters"
        )
    stops = (ids == tokenizer.convert_tokens_to_ids(".")).nonzero()[:, 0].tolist()
    spans = list(zip([1, *(stop + 1 for stop in stops)], stops, strict=False))
    height, width = frame.shape[:2]
    scale = min(SHORT / min(height, width), LONG / max(height, width))
    pixels = to_pixels(frame[None], (round(height * scale), round(width * scale))).to(network.device)
    with torch.inference_mode():
        out = network(pixel_values=pixels, **words.to(network.device))
    belief = out.logits[0].float().sigmoid()
    scores = torch.stack([belief[:, first:stop].mean(1) for first, stop in spans], 1)
    return _found(out.pred_boxes[0], scores, width, height)


def _see_queries(network: Any, tokenizer: Any, frame: Frames, texts: Sequence[str]) -> Found:
    """OWL reads each text apart; OWLv2 sees the frame in the upper left of a square, OWL-ViT stretched."""
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
    pixels = to_pixels(frame[None], (side, side), OPENAI).to(network.device)
    with torch.inference_mode():
        out = network(pixel_values=pixels, **words.to(network.device))
    return _found(out.pred_boxes[0], out.logits[0].float().sigmoid(), width, height)


def _found(boxes: Tensor, scores: Tensor, width: int, height: int) -> Found:
    """Boxes (N, 4) given as middle and size, in parts of a picture of that size, as `Found` wants them."""
    x, y, w, h = (boxes.float().cpu().numpy().astype(np.float64) * [width, height, width, height]).T
    edges = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    return Found(edges.clip(0, [width, height, width, height]), scores.cpu().numpy().astype(np.float64))
