"""The parts of a fused LoRA file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.lora.file import Lora

Tensors = dict[str, tuple[Tensor, Tensor]]


FUSION = "castmix.fusion"


@dataclass(frozen=True)
class Part:
    """A LoRA to be fused.

    `subjects` are the phrases by which prompts and captions call those whom it knows: names and tokens.
    """

    name: str
    lora: Lora
    weight: float
    subjects: tuple[str, ...] = ()
    fingerprint: str = ""


def unfused(lora: Lora) -> list[Part] | None:
    """The parts of a masked file, as they were, weights apart; None if the LoRA is no such file.

    Raises:
        CastmixError: the tensors are not those that the metadata tells of.
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
