"""A fusion's input and output: the LoRAs to fuse, the settings, and the metadata of the fused file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file
from toolkit.core.progress import say
from toolkit.fusion.settings import Distil, Examples, Sparse, Squares
from toolkit.lora.file import Lora
from toolkit.lora.loading import parse_lora
from toolkit.lora.parts import FUSION, Part, Tensors
from toolkit.lora.plain_words import class_nouns
from toolkit.lora.special_tokens import read_tokens, tokens_metadata
from toolkit.models.interfaces import ModelSpec

Facts = dict[str, Any]
"""What a method records beside the tensors, such as its error. It goes into the metadata and run.yaml."""


@dataclass(frozen=True)
class Job:
    """Settings of a fusion, which `toolkit.fuse` describes.

    Attributes:
        spec: Base model of the methods that run the LoRAs.
        work: Folder for checkpoints and logs.
        examples: Cached clips.
        rank: Rank of every layer; None for the method's default.
        seed: Of all random numbers.
        restart: Whether to ignore a checkpoint.
        sparse: Settings of ties and dare.
        squares: Settings of least-squares.
        distil: Settings of gradient.
    """

    spec: ModelSpec
    work: Path
    examples: Examples
    rank: int | None
    seed: int
    restart: bool
    sparse: Sparse
    squares: Squares
    distil: Distil


def read_part(text: str | Path, subjects: Sequence[str] = ()) -> Part:
    """Read a part to fuse from ``path`` or ``path:weight``, with its subjects and fingerprint.

    subjects: Phrases that name its characters. Default: the file's cast and special tokens.

    Raises:
        CastmixError: the file does not exist or is not a LoRA, or the weight is not finite.
    """
    reference = parse_lora(text)
    part = reference.read()
    cast = json.loads(part.lora.metadata.get("castmix.cast", "[]"))
    phrases = tuple(subjects) or (*cast, *class_nouns([part.lora]))
    return replace(part, subjects=phrases, fingerprint=fingerprint_file(reference.path))


def check_fit(parts: Sequence[Part]) -> None:
    """Check that the LoRAs fit one network; print a warning if they were trained on different weights.

    Raises:
        CastmixError: a layer has different shapes in two of the files.
    """
    seen: dict[str, tuple[str, tuple[int, int]]] = {}
    for part in parts:
        for layer, (a, b) in part.lora.tensors.items():
            shape = (a.shape[1], b.shape[0])
            other, there = seen.setdefault(layer, (part.name, shape))
            if there != shape:
                raise CastmixError(
                    f"{part.name} and {other} are of different models: layer {layer} is "
                    f"{shape[0]}→{shape[1]} in one and {there[0]}→{there[1]} in the other"
                )
    bases = {part.name: part.lora.metadata.get("castmix.base_fingerprint", "") for part in parts}
    if len({base for base in bases.values() if base}) > 1:
        trained = ", ".join(f"{name} on {base or 'an unknown base'}" for name, base in bases.items())
        say(f"warning: these LoRAs were trained on different weights of the same shapes: {trained}")


def note_nested(parts: Sequence[Part]) -> None:
    """Print a note about parts that are masked fusions. This fusion no longer keeps their LoRAs apart."""
    nested = [part.name for part in parts if '"masked"' in part.lora.metadata.get("castmix.fusion", "")]
    if len(parts) > 1 and nested:
        say(
            f"note: {', '.join(nested)} is a masked fusion already: its LoRAs act as one here. To keep them "
            "apart, fuse the LoRAs that it was made of"
        )


def note_single_characters(parts: Sequence[Part]) -> None:
    """Print a note about LoRAs that know one character only: they draw one figure, however they are fused."""
    casts = {part.name: json.loads(part.lora.metadata.get("castmix.cast", "[]")) for part in parts}
    single = [name for name, cast in casts.items() if len(cast) == 1]
    if len(parts) > 1 and single:
        say(
            f"note: the captions of {', '.join(single)} name one character each. A LoRA whose clips show its "
            "character alone draws one figure, however it is fused. Add clips that show it beside others, "
            "and name all of them in the captions (docs/fusion.md)"
        )


def fused_lora(parts: Sequence[Part], tensors: Tensors, method: str, facts: Mapping[str, Any]) -> Lora:
    """The fused LoRA, with the special tokens, cast and trigger words of all parts.

    Args:
        parts: The LoRAs that were fused.
        tensors: The method's result.
        method: Its name, for the metadata.
        facts: What else the metadata records. `ranks` are each part's ranks by layer, and are recorded with
            the part.

    Raises:
        CastmixError: two parts have different special tokens of one spelling.
    """
    first = parts[0].lora.metadata
    facts = dict(facts)
    ranks = facts.pop("ranks", None)
    casts = [json.loads(part.lora.metadata.get("castmix.cast", "[]")) for part in parts]
    cast = sorted({name for names in casts for name in names})
    records: list[dict[str, Any]] = [
        {
            "name": part.name,
            "weight": part.weight,
            "subjects": list(part.subjects),
            "fingerprint": part.fingerprint,
            **({} if ranks is None else {"ranks": ranks[i]}),
        }
        for i, part in enumerate(parts)
    ]
    common = ("castmix.base", "castmix.base_fingerprint", "castmix.grammar")
    metadata: dict[str, str] = {
        **{key: text for key, text in first.items() if key.startswith("modelspec.") or key in common},
        "modelspec.title": f"castmix LoRA: {', '.join(cast) or ' + '.join(part.name for part in parts)}",
        "modelspec.trigger_phrase": ", ".join(f"[Character: {name}]" for name in cast),
        "castmix.cast": json.dumps(cast, ensure_ascii=False),
        "castmix.rank": str(max((a.shape[0] for a, _ in tensors.values()), default=0)),
        FUSION: json.dumps({"method": method, "parts": records, **facts}, ensure_ascii=False, sort_keys=True),
    }
    if method == "masked":
        metadata["modelspec.usage_hint"] = (
            "castmix lets each of the LoRAs act only where its subject is; elsewhere this is their plain sum"
        )
    tokens = read_tokens([part.lora for part in parts])
    vectors = {name: token.vector for name, token in tokens.items()}
    return Lora(tensors, metadata | tokens_metadata(tokens), vectors)
