"""Cached clips: writing them, checking that they are up to date, holding some back, ordering them.

A cache is a folder of samples (``<id>.safetensors``) below the folder of clips, with ``rejected.jsonl`` for
the clips that could not be encoded and ``prompts/empty.safetensors`` for caption dropout.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, fingerprint_text, safetensors_bytes, write_atomic
from toolkit.footage.clips import Clip, read_clips
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import MODELS, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

REJECTED = "rejected.jsonl"
EMPTY_PROMPT = Path("prompts") / "empty.safetensors"
FORMAT = "1"  # raise it when the content of a sample changes its meaning


@dataclass(frozen=True, eq=False)
class Sample:
    """The cached tensors of a clip.

    Attributes:
        id: The clip's id.
        latents: float32 (C, f, h, w), normalised as the denoiser takes them.
        prompt_embeds: float32 (L, D).
        text: The caption that `prompt_embeds` encodes.
        fingerprint: Fingerprints of what the sample was made from: file, caption, model, settings.
    """

    id: str
    latents: Tensor
    prompt_embeds: Tensor
    text: str
    fingerprint: dict[str, str]


@dataclass(frozen=True)
class Item:
    """A cached clip. Its tensors stay on disk until they are needed.

    Attributes:
        path: Its sample.
        text: The caption.
        take: The shot that the clip was cut from: clips of one take look alike.
        shape: (C, f, h, w) of the latents.
        fingerprint: Of the clip's id and everything that the sample was made from.
        composite: Whether a character was pasted in.
    """

    path: Path
    text: str
    take: str
    shape: tuple[int, ...]
    fingerprint: str
    composite: bool = False

    def load(self) -> tuple[Tensor, Tensor]:
        """Latents (C, f, h, w) and prompt embeddings (L, D), float32."""
        sample = _load_sample(self.path)
        return sample.latents, sample.prompt_embeds


def cache_folder(clips: Path, spec: ModelSpec) -> Path:
    """Where the cache of a folder of clips lies by default."""
    return Path(clips) / "cache" / spec.slug


def clip_fingerprint(clip: Clip, encoders: str) -> dict[str, str]:
    """What a sample is made from, by name. encoders: `models.fingerprint(model, "encoders")`."""
    return {
        "file": fingerprint_file(clip.path),
        "caption": fingerprint_text(clip.text),
        "model": encoders,
        "settings": FORMAT,
    }


def cached_fingerprint(path: Path) -> dict[str, str] | None:
    """The fingerprint in a sample's header; None if there is no readable sample."""
    header = _header(path)
    return None if header is None else header[0]


def read_rejected(cache: Path) -> dict[str, dict[str, Any]]:
    """Clips that could not be encoded, by file name."""
    path = cache / REJECTED
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["file_name"]: row for row in rows}


def load_items(clips: Path, spec: ModelSpec) -> list[Item]:
    """All cached clips of a folder, sorted by id; clips that its cache set aside are left out.

    Raises:
        CastmixError: the cache is missing or stale; says of how many clips, and what changed.
    """
    cache, encoders = cache_folder(clips, spec), fingerprint(spec, "encoders")
    rejected = read_rejected(cache)
    items: list[Item] = []
    changed: Counter[str] = Counter()
    rows = read_clips(clips)
    for clip in rows:
        now = clip_fingerprint(clip, encoders)
        if rejected.get(clip.path.name, {}).get("fingerprint") == now:
            continue
        path = cache / f"{clip.id}.safetensors"
        header = _header(path)
        if header is None:
            changed["not cached yet"] += 1
        elif header[0] != now:
            names = [name for name, value in now.items() if header[0].get(name) != value]
            changed[f"{' and '.join(names)} changed"] += 1
        else:
            take = f"{clip.source}#{clip.shot}"
            identity = fingerprint_text(json.dumps([clip.id, now], sort_keys=True))
            items.append(Item(path, clip.text, take, header[1], identity, "composite" in clip.extra))
    if changed or not (cache / EMPTY_PROMPT).is_file():
        why = ", ".join(f"{count} {what}" for what, count in changed.items()) or "the empty prompt is missing"
        raise CastmixError(
            f"the cache {cache} does not match its {len(rows)} clips: {why}. "
            f"Run `castmix cache {clips} --model {spec.name if spec.name in MODELS else spec.path}` again"
        )
    if not items:
        raise CastmixError(f"no clip of {clips} could be cached: see {cache / REJECTED}")
    return items


def load_empty_prompt(clips: Path, spec: ModelSpec) -> Tensor:
    """Embeddings (L, D) of the empty prompt."""
    from safetensors import safe_open

    with safe_open(cache_folder(clips, spec) / EMPTY_PROMPT, framework="pt") as file:
        return file.get_tensor("prompt_embeds")  # type: ignore[no-any-return]


def hold_back(items: Sequence[Item], holdout: float) -> tuple[list[Item], list[Item]]:
    """Split into what is trained on and what is held back for validation, always the same way.

    Whole takes are held back: a clip that continues a trained one would flatter the loss.

    Args:
        items: Clips of one folder.
        holdout: 1 or more is a number of clips (rounded up to whole takes), less is a share; 0 holds none.
    """
    if holdout < 0:
        raise CastmixError(f"holdout must be a share below 1, or a number of clips, got {holdout}")
    wanted = round(holdout * len(items)) if holdout < 1 else int(holdout)
    takes = sorted({item.take for item in items}, key=lambda take: (fingerprint_text(take), take))
    held: list[Item] = []
    for take in takes:
        if len(held) >= wanted:
            break
        held += [item for item in items if item.take == take]
    learned = [item for item in items if item not in held]
    if not learned:
        raise CastmixError(
            f"holdout {holdout:g} leaves nothing to train on: {len(items)} clips of {len(takes)} shots. "
            "Use a smaller one (0 holds none back)"
        )
    return learned, held


def choose(count: int, places: range, *, seed: int, what: str) -> list[int]:
    """Which of `count` items stand at these places of an endless sequence with every item once an epoch.

    A function of its arguments alone: place k lies in epoch k // count, which has a permutation of its own.
    """
    import torch

    from toolkit.core.seeds import generator_for

    orders = {
        epoch: torch.randperm(count, generator=generator_for(seed, epoch, f"order/{what}")).tolist()
        for epoch in {place // count for place in places}
    }
    return [orders[place // count][place % count] for place in places]


def _header(path: Path) -> tuple[dict[str, str], tuple[int, ...]] | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:  # without torch
            found: dict[str, str] = json.loads((file.metadata() or {})["fingerprint"])
            return found, tuple(file.get_slice("latents").get_shape())
    except (SafetensorError, KeyError, ValueError):
        return None


def save_sample(folder: Path, sample: Sample) -> Path:
    """Write a sample as `<id>.safetensors` and return its path. Equal samples make equal bytes."""
    tensors = {"latents": sample.latents.float(), "prompt_embeds": sample.prompt_embeds.float()}
    fingerprint = json.dumps(sample.fingerprint, sort_keys=True, ensure_ascii=False)
    path = Path(folder) / f"{sample.id}.safetensors"
    write_atomic(path, safetensors_bytes(tensors, {"text": sample.text, "fingerprint": fingerprint}))
    return path


def load_samples(folder: Path) -> list[Sample]:
    """Read every sample of a folder, sorted by id.

    Raises:
        CastmixError: No samples there, or a file that is not a sample.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise CastmixError(f"{folder} has no samples (*.safetensors): make them with `castmix cache`")
    return [_load_sample(path) for path in paths]


def _load_sample(path: Path) -> Sample:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            latents, prompt_embeds = file.get_tensor("latents"), file.get_tensor("prompt_embeds")
        text, fingerprint = metadata["text"], json.loads(metadata["fingerprint"])
    except (SafetensorError, KeyError) as error:
        raise CastmixError(f"{path} is not a sample ({error}): delete it and run `castmix cache`") from error
    return Sample(path.stem, latents, prompt_embeds, text, fingerprint)
