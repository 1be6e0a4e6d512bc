"""The parts of LoRA files: what is attached to a network as one adapter, and what a fusion is made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.lora.file import Lora
from toolkit.lora.settings import Role

Tensors = dict[str, tuple[Tensor, Tensor]]
"""The matrices (A, B) of each layer, by diffusers' layer name."""

FUSION = "castmix.fusion"
"""Metadata key of a fused file: method, parts, weights."""


@dataclass(frozen=True)
class Part:
    """A LoRA as one adapter of the network.

    Attributes:
        name: Of the adapter, from its file.
        lora: Its tensors and metadata.
        weight: Factor of its change.
        subjects: Phrases by which prompts and captions name its characters: names and special tokens. A part
            of a masked fusion acts only where they are.
        fingerprint: Of the file that it came from.
        role: Which branch of collaborative sampling uses it.
    """

    name: str
    lora: Lora
    weight: float
    subjects: tuple[str, ...] = ()
    fingerprint: str = ""
    role: Role = "lora"


def masked_parts(lora: Lora) -> list[Part] | None:
    """The LoRAs that a masked fusion was made of, each with weight 1; None if the file is no masked fusion.

    Raises:
        CastmixError: the tensors are not those that the metadata describes.
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
                    f"this masked LoRA should have rank {begin + rank} or more in {layer}, it has "
                    f"{0 if a is None else a.shape[0]}: it was changed after `castmix fuse`; fuse it again"
                )
            tensors[layer] = (a[begin : begin + rank], b[:, begin : begin + rank])
            offsets[layer] = begin + rank
        parts.append(Part(about["name"], Lora(tensors), 1.0, tuple(about["subjects"]), about["fingerprint"]))
    return parts


def adapters_of(lora: Lora, name: str) -> list[Part]:
    """The adapters that a file becomes: itself, or the parts of a masked fusion; none without tensors.

    Subjects are set for the parts of a masked fusion alone: any other LoRA acts everywhere.
    """
    if not lora.tensors:  # a file of special tokens alone
        return []
    parts = masked_parts(lora)
    if parts is None:
        return [Part(name, lora, 1.0)]
    # the file says what base it was trained on, its parts do not
    return [replace(part, lora=replace(part.lora, metadata=lora.metadata)) for part in parts]
