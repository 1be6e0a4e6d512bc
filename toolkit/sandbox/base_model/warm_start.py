"""Takes the weights of a base model folder over into a new pretraining run.

`toolkit/sandbox/base` has the base that ships. `base_in_training`, beside it, has the newest state of a run
without an end: its weights and its `training.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from numpy.typing import NDArray
from transformers import AutoTokenizer, T5Tokenizer, UMT5EncoderModel

from toolkit.core.errors import CastmixError
from toolkit.models.pixels import frames_to_video
from toolkit.sandbox.base_model.architecture import (
    TRAINING_FILE,
    new_vae,
    save_base,
    vae_encode,
)
from toolkit.sandbox.base_model.linear_codec import LinearCodec, fit_to_latents
from toolkit.sandbox.base_model.previews import tokenizer
from toolkit.sandbox.base_model.train_dit import TextToVideo

SHIPPED = Path(__file__).parent.parent / "base"
IN_TRAINING = SHIPPED.with_name("base_in_training")


def newest_weights() -> Path:
    """Return the folder of the newest committed weights."""
    return IN_TRAINING if (IN_TRAINING / TRAINING_FILE).exists() else SHIPPED


def training_facts(folder: Path) -> dict[str, Any]:
    """Return the steps and the history of the run that made a folder; none for the base that ships."""
    path = folder / TRAINING_FILE
    nothing: dict[str, Any] = {"steps": 0, "history": {}}
    return nothing | json.loads(path.read_text()) if path.exists() else nothing


def load_text_to_video(folder: Path, words: T5Tokenizer) -> TextToVideo:
    """Load text encoder and DiT of a folder. The embeddings of words that it does not know are new.

    Raises:
        CastmixError: A weight has another shape.
    """
    model = TextToVideo(len(words))
    encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").state_dict()
    old = AutoTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    rows = model.text_encoder.state_dict()
    known = {piece: index for piece, index in words.get_vocab().items() if piece in old}
    for name, value in encoder.items():
        if len(value) == len(old) and len(rows[name]) == len(words):  # the embedding, under each of its names
            fresh = rows[name].clone()
            fresh[list(known.values())] = value.float()[[old[piece] for piece in known]]
            encoder[name] = fresh
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
    for part, weights in ((model.text_encoder, encoder), (model.transformer, transformer)):
        try:
            part.load_state_dict({name: value.float() for name, value in weights.items()})
        except RuntimeError as error:
            raise CastmixError(f"{folder} is not a base model of the sandbox: {error}") from error
    return model


def load_vae(folder: Path) -> AutoencoderKLWan:
    """Load the VAE of a folder."""
    vae = new_vae()
    weights = AutoencoderKLWan.from_pretrained(folder / "vae").state_dict()
    vae.load_state_dict({name: value.float() for name, value in weights.items()})
    return vae.eval()


def codec_of_vae(vae: AutoencoderKLWan, frames: NDArray[np.uint8]) -> LinearCodec:
    """Return the codec that predicts the VAE's latents best, fitted on clips (N, F, H, W, 3)."""
    with torch.no_grad():
        latents = [
            vae_encode(vae, frames_to_video(np.array(frames[start : start + 8])))
            for start in range(0, len(frames), 8)
        ]
    return fit_to_latents(frames, torch.cat(latents))


def save_weights(
    folder: Path, model: TextToVideo, vae: AutoencoderKLWan, training: Mapping[str, object]
) -> None:
    """Save a model folder in float16, with the facts that `training_facts` returns.

    `newest_weights` finds it as `base_in_training`, beside the base that ships.
    """
    from toolkit.models.registry import MODELS

    parts = {"text_encoder": model.text_encoder, "transformer": model.transformer, "vae": vae}
    names = ("text_length", "shift", "guidance_scale", "steps", "fps", "num_frames", "height", "width")
    save_base(
        folder,
        tokenizer=tokenizer(),
        settings={name: getattr(MODELS["sandbox"], name) for name in names},
        training=training,
        **{name: deepcopy(part) for name, part in parts.items()},
    )
