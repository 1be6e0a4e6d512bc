"""What a trained LoRA says of itself in its metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from toolkit.captions.grammar import TAG
from toolkit.lora.settings import Adapter
from toolkit.models.interfaces import ModelSpec
from toolkit.training.cached_clips import Item

GRAMMAR = "[Character: <name>], <action>. … [scene-style:cartoon|realistic]"


def card(
    spec: ModelSpec,
    base: str,
    adapter: Adapter,
    learned: Sequence[Item],
    *,
    heads: Mapping[int, Collection[int]] | None = None,
    objective: str = "velocity",
) -> dict[str, str]:
    """What lora.safetensors says of itself. No dates and no paths: equal runs give equal bytes.

    base: the network's fingerprint. heads: those of each block's self-attention that it changes, if not all.
    """
    cast = sorted({name for item in learned for name in TAG.findall(item.text)})
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
