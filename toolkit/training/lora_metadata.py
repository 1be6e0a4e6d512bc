"""Metadata of a trained LoRA file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from toolkit.captions.grammar import TAG
from toolkit.lora.settings import Adapter
from toolkit.models.interfaces import ModelSpec
from toolkit.training.cached_clips import CachedClip

GRAMMAR = "[Character: <name>], <action>. … [scene-style:cartoon|realistic]"


def lora_metadata(
    spec: ModelSpec,
    base: str,
    adapter: Adapter,
    clips: Sequence[CachedClip],
    *,
    heads: Mapping[int, Collection[int]] | None = None,
    objective: str = "velocity",
) -> dict[str, str]:
    """Metadata of lora.safetensors. It has no dates and no paths, so that equal runs give equal bytes.

    base: the network's fingerprint. heads: the heads of each block's self-attention that the LoRA changes, if
    not all.
    """
    cast = sorted({name for clip in clips for name in TAG.findall(clip.text)})
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{spec.slug}/lora",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": f"castmix LoRA: {', '.join(cast) or 'no named characters'}",
        "modelspec.trigger_phrase": ", ".join(f"[Character: {name}]" for name in cast),
        "castmix.base": spec.name,
        "castmix.base_fingerprint": base,
        "castmix.cast": json.dumps(cast, ensure_ascii=False),
        "castmix.grammar": GRAMMAR,
        "castmix.rank": str(adapter.rank),
        **({} if objective == "velocity" else {"castmix.objective": objective}),
        **({} if heads is None else {"castmix.heads": json.dumps(heads)}),
    }
