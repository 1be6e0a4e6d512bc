"""Prompt embeddings that a cache does not have: captions with special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolkit.lora.special_tokens import TOKEN, encode_prompts, read_tokens
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import load_encoders

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolkit.lora.file import Lora


@dataclass(frozen=True)
class Prompts:
    """Prompt embeddings, each (L, D).

    Attributes:
        empty: Of the empty prompt, for caption dropout.
        special: Of captions with special tokens, by caption. The cache has these captions as they are spelt;
            LoRAs are trained with the tokens' vectors.
    """

    empty: Tensor
    special: Mapping[str, Tensor] = field(default_factory=dict)


def captions_with_tokens(captions: Iterable[str], loras: Sequence[Lora]) -> list[str]:
    """The captions that contain special tokens of these LoRAs, sorted, each once."""
    known = read_tokens(loras)
    return sorted({text for text in captions if any(one in known for one in TOKEN.findall(text))})


def embed_special(
    captions: Iterable[str], loras: Sequence[Lora], spec: ModelSpec, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Embeddings (L, D), on the CPU, of those captions that contain special tokens of these LoRAs.

    Loads the text encoder only if there are any.
    """
    texts = captions_with_tokens(captions, loras)
    if not texts:
        return {}
    encoders = load_encoders(spec, device)
    embeds = encode_prompts(encoders, texts, loras).cpu()
    encoders.release_text_encoder()
    return dict(zip(texts, embeds, strict=True))
