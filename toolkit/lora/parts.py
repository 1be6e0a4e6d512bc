"""Parts: LoRAs with a weight. A network has one adapter per part, and a fusion is made of parts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.lora.file import Lora
from toolkit.lora.settings import Role

Tensors = dict[str, tuple[Tensor, Tensor]]
"""(A, B) by the layer's name in diffusers; A (r, in), B (out, r)."""

FUSION = "castmix.fusion"
"""Metadata key of a fused file: JSON with its method, its parts and their weights."""


@dataclass(frozen=True)
class Part:
    """A LoRA with a weight.

    Attributes:
        name: Of the adapter; from the file's name.
        lora: Its tensors and metadata.
        weight: Factor of its change.
        subjects: Phrases by which prompts and captions name its characters: names and special tokens. For
            sampling only the parts of a masked fusion have subjects; they act only where these are.
        fingerprint: Of its file; empty where it is not needed.
        role: Which branch of collaborative sampling uses it.
    """

    name: str
    lora: Lora
    weight: float
    subjects: tuple[str, ...] = ()
    fingerprint: str = ""
    role: Role = "lora"


def masked_parts(lora: Lora) -> list[Part] | None:
    """The parts of a masked fusion, each with weight 1; None if the file is not a masked fusion.

    A masked fusion concatenates the ranks of its parts. Its metadata has each part's rank in each layer.

    Raises:
        CastmixError: the tensors contradict the metadata.
    """
    record = json.loads(lora.metadata.get(FUSION, "{}"))
    if record.get("method") != "masked":
        return None
    parts: list[Part] = []
    offsets = dict.fromkeys(lora.tensors, 0)
    for about in record["parts"]:
        tensors: Tensors = {}
        for layer, rank in about["ranks"].items():
            a, b = lora.tensors.get(layer, (None, None))
            begin = offsets.get(layer, 0)
            if a is None or b is None or a.shape[0] < begin + rank:
                raise CastmixError(
                    f"this masked fusion should have rank {begin + rank} or more in {layer}, it has "
                    f"{0 if a is None else a.shape[0]}: it was changed after `castmix fuse`; fuse it again"
                )
            tensors[layer] = (a[begin : begin + rank], b[:, begin : begin + rank])
            offsets[layer] = begin + rank
        parts.append(Part(about["name"], Lora(tensors), 1.0, tuple(about["subjects"]), about["fingerprint"]))
    return parts


def adapters_of(file: Part) -> list[Part]:
    """The adapters for a file that was read as one part: the part itself, or the parts of a masked fusion.

    A file of special tokens alone needs no adapter.
    """
    if not file.lora.tensors:
        return []
    parts = masked_parts(file.lora)
    if parts is None:
        return [file]
    return [
        replace(
            part,
            lora=replace(part.lora, metadata=file.lora.metadata),  # it names the base that it was trained on
            weight=file.weight,
            role=file.role,
        )
        for part in parts
    ]
