"""The cache of a folder of clips: latents and prompt embeddings.

A cache is a folder of samples (``<id>.safetensors``) inside the folder of clips. ``rejected.jsonl`` lists
clips that could not be encoded; ``prompts/empty.safetensors`` is the empty prompt, for caption dropout.
"""

from __future__ import annotations

import json
from collections import Counter
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
FORMAT = "1"
"""Version of the samples. Raise it when their content changes its meaning."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The cached tensors of a clip.

    Attributes:
        id: The clip's id.
        latents: float32 (C, f, h, w), normalised for the denoiser.
        prompt_embeds: float32 (L, D).
        text: The caption that `prompt_embeds` encodes.
        fingerprint: What the sample was made from (file, caption, model, settings), by name.
    """

    id: str
    latents: Tensor
    prompt_embeds: Tensor
    text: str
    fingerprint: dict[str, str]


@dataclass(frozen=True)
class CachedClip:
    """A clip with a sample in the cache. The sample's tensors stay on disk until they are needed.

    Attributes:
        path: The sample.
        text: The caption.
        shot: The shot that the clip was cut from. Clips of one shot look alike.
        shape: Of the latents, (C, f, h, w).
        fingerprint: Changes with everything that the sample was made from.
        composite: A character was pasted in.
    """

    path: Path
    text: str
    shot: str
    shape: tuple[int, ...]
    fingerprint: str
    composite: bool = False

    def load(self) -> tuple[Tensor, Tensor]:
        """Latents (C, f, h, w) and prompt embeddings (L, D), float32."""
        sample = _load_sample(self.path)
        return sample.latents, sample.prompt_embeds


def cache_folder(clips: Path, spec: ModelSpec) -> Path:
    """The cache of a folder of clips for a model."""
    return Path(clips) / "cache" / spec.slug


def clip_fingerprint(clip: Clip, encoders: str) -> dict[str, str]:
    """What a sample is made from, by name. encoders: `models.registry.fingerprint(model, "encoders")`."""
    return {
        "file": fingerprint_file(clip.path),
        "caption": fingerprint_text(clip.text),
        "model": encoders,
        "settings": FORMAT,
    }


def cached_fingerprint(path: Path) -> dict[str, str] | None:
    """The fingerprint in a sample's header; None if the sample is missing or unreadable."""
    header = _read_header(path)
    return None if header is None else header[0]


def read_rejected(cache: Path) -> dict[str, dict[str, Any]]:
    """Clips that could not be encoded, by file name."""
    path = cache / REJECTED
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {row["file_name"]: row for row in rows}


def load_cached_clips(clips: Path, spec: ModelSpec) -> list[CachedClip]:
    """All cached clips of a folder, sorted by id, without those that could not be encoded.

    Raises:
        CastmixError: the cache is missing or stale; the message says what changed in how many clips.
    """
    cache, encoders = cache_folder(clips, spec), fingerprint(spec, "encoders")
    rejected = read_rejected(cache)
    cached: list[CachedClip] = []
    changed: Counter[str] = Counter()
    rows = read_clips(clips)
    for clip in rows:
        now = clip_fingerprint(clip, encoders)
        if rejected.get(clip.path.name, {}).get("fingerprint") == now:
            continue
        path = cache / f"{clip.id}.safetensors"
        header = _read_header(path)
        if header is None:
            changed["not cached yet"] += 1
        elif header[0] != now:
            names = [name for name, value in now.items() if header[0].get(name) != value]
            changed[f"{' and '.join(names)} changed"] += 1
        else:
            shot = f"{clip.source}#{clip.shot}"
            identity = fingerprint_text(json.dumps([clip.id, now], sort_keys=True))
            cached.append(CachedClip(path, clip.text, shot, header[1], identity, "composite" in clip.extra))
    if changed or not (cache / EMPTY_PROMPT).is_file():
        why = ", ".join(f"{count} {what}" for what, count in changed.items()) or "the empty prompt is missing"
        raise CastmixError(
            f"the cache {cache} does not match its {len(rows)} clips: {why}. "
            f"Run `castmix cache {clips} --model {spec.name if spec.name in MODELS else spec.path}` again"
        )
    if not cached:
        raise CastmixError(f"no clip of {clips} could be cached: see {cache / REJECTED}")
    return cached


def load_empty_prompt(clips: Path, spec: ModelSpec) -> Tensor:
    """Embeddings (L, D) of the empty prompt."""
    from safetensors import safe_open

    with safe_open(cache_folder(clips, spec) / EMPTY_PROMPT, framework="pt") as file:
        return file.get_tensor("prompt_embeds")  # type: ignore[no-any-return]


def _read_header(path: Path) -> tuple[dict[str, str], tuple[int, ...]] | None:
    """A sample's fingerprint and its latents' shape, without torch; None if it is missing or unreadable."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            found: dict[str, str] = json.loads((file.metadata() or {})["fingerprint"])
            return found, tuple(file.get_slice("latents").get_shape())
    except (SafetensorError, KeyError, ValueError):
        return None


def save_sample(folder: Path, sample: Sample) -> Path:
    """Write a sample as `<id>.safetensors` and return its path. Equal samples give equal bytes."""
    tensors = {"latents": sample.latents.float(), "prompt_embeds": sample.prompt_embeds.float()}
    fingerprint = json.dumps(sample.fingerprint, sort_keys=True, ensure_ascii=False)
    path = Path(folder) / f"{sample.id}.safetensors"
    write_atomic(path, safetensors_bytes(tensors, {"text": sample.text, "fingerprint": fingerprint}))
    return path


def load_samples(folder: Path) -> list[Sample]:
    """Read all samples of a folder, sorted by id.

    Raises:
        CastmixError: the folder has no samples, or a file is not a sample.
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
