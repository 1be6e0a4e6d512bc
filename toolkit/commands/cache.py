"""`castmix cache`: clips and captions to latents and prompt embeddings, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import safetensors_bytes, write_atomic, write_jsonl
from toolkit.core.progress import say, track
from toolkit.footage.clips import Clip, read_clips
from toolkit.models.interfaces import Encoders, ModelSpec
from toolkit.models.registry import default_device, find_model, fingerprint, latent_shape, load_encoders
from toolkit.training.cached_clips import (
    EMPTY_PROMPT,
    REJECTED,
    Sample,
    cache_folder,
    cached_fingerprint,
    clip_fingerprint,
    save_sample,
)

if TYPE_CHECKING:
    from torch import Tensor


def cache(clips: Path, out: Path | None = None, *, model: str = "sandbox") -> Path:
    """Encode clips and captions for training.

    Clips whose file, caption and model have not changed since are kept; of one whose caption alone changed,
    only the caption is encoded again. A clip without a caption, or that cannot be encoded, is set aside in
    rejected.jsonl.

    Args:
        clips: A folder of captioned clips.
        out: Folder of the cache. Default: CLIPS/cache/MODEL, where `castmix train` looks.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.

    Returns:
        The folder of the cache.

    Raises:
        CastmixError: no clip with a caption, or none that can be encoded.
    """
    spec = find_model(model)
    rows = read_clips(clips)
    _require_captions(clips, rows)
    folder = Path(out) if out is not None else cache_folder(clips, spec)
    encoders = load_encoders(spec, default_device())
    identity = fingerprint(spec, "encoders")
    _warn_of_other_rate(rows, spec)
    empty = {"prompt_embeds": encoders.encode_text([""])[0].cpu()}
    write_atomic(folder / EMPTY_PROMPT, safetensors_bytes(empty, {"model": identity}))

    kept, rejected = 0, []
    for clip in track(rows, "caching"):
        now, path = clip_fingerprint(clip, identity), folder / f"{clip.id}.safetensors"
        before = cached_fingerprint(path)
        if before == now:
            kept += 1
            continue
        try:
            same_video = (
                clip.text.strip() and before is not None and before | {"caption": ""} == now | {"caption": ""}
            )
            latents = _old_latents(path) if same_video else _encode_clip(clip, spec, encoders)
        except CastmixError as error:
            path.unlink(missing_ok=True)
            rejected.append({"file_name": clip.path.name, "reason": str(error), "fingerprint": now})
            continue
        save_sample(folder, Sample(clip.id, latents, _encode_caption(clip, spec, encoders), clip.text, now))
    _write_rejected(folder, rejected)
    _drop_leftovers(folder, rows)
    made = len(rows) - kept - len(rejected)
    if len(rejected) == len(rows):
        raise CastmixError(f"none of {len(rows)} clips could be encoded: {rejected[0]['reason']}")
    say(f"{folder}: {made} encoded, {kept} unchanged, {len(rejected)} set aside")
    return folder


def _require_captions(clips: Path, rows: Sequence[Clip]) -> None:
    """Some captions are enough: clips that a captioner has set aside are set aside here, too."""
    if not any(clip.text.strip() for clip in rows):
        raise CastmixError(
            f"none of {len(rows)} clips in {clips} has a caption: run `castmix caption {clips}`, "
            f"or write `text` in {clips}/metadata.jsonl"
        )


def _warn_of_other_rate(rows: Sequence[Clip], spec: ModelSpec) -> None:
    rates = {clip.fps for clip in rows} - {spec.fps}
    if rates:
        found = ", ".join(f"{rate:g}" for rate in sorted(rates))
        say(f"warning: clips have {found} frames a second, {spec.name} makes {spec.fps:g}")


def _encode_clip(clip: Clip, spec: ModelSpec, encoders: Encoders) -> Tensor:
    """Latents (C, f, h, w) of a clip; an error says why it cannot be one of this model's."""
    if not clip.text.strip():
        raise CastmixError(
            f"{clip.id} has no caption: run `castmix caption`, or write `text` in metadata.jsonl"
        )
    from toolkit.footage.video import read_video
    from toolkit.models.pixels import frames_to_video

    shape = latent_shape(spec, clip.num_frames, clip.height, clip.width)
    frames, _ = read_video(clip.path)
    if frames.shape != (clip.num_frames, clip.height, clip.width, 3):
        found = f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"
        said = f"{clip.num_frames} of {clip.width}x{clip.height}"
        raise CastmixError(f"{clip.path} has {found}, but its json says {said}: prepare it again")
    latents = encoders.encode_video(frames_to_video(frames)[None])[0].cpu()
    if tuple(latents.shape) != shape or not latents.isfinite().all():
        raise CastmixError(f"{clip.path}: its latents are {tuple(latents.shape)}, expected finite {shape}")
    return latents


def _encode_caption(clip: Clip, spec: ModelSpec, encoders: Encoders) -> Tensor:
    tokens = encoders.count_tokens(clip.text)
    if tokens > spec.text_length:
        say(f"warning: the caption of {clip.id} has {tokens} tokens, those after {spec.text_length} are cut")
    return encoders.encode_text([clip.text])[0].cpu()


def _old_latents(path: Path) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor("latents")  # type: ignore[no-any-return]


def _write_rejected(folder: Path, rejected: list[dict[str, Any]]) -> None:
    if not rejected:
        (folder / REJECTED).unlink(missing_ok=True)
        return
    write_jsonl(folder / REJECTED, rejected)
    for row in rejected[:5]:
        say(f"set aside: {row['reason']}")
    if len(rejected) > 5:
        say(f"… and {len(rejected) - 5} more: see {folder / REJECTED}")


def _drop_leftovers(folder: Path, rows: Sequence[Clip]) -> None:
    """Samples of clips that are gone would still be found by `load_samples`."""
    ids = {clip.id for clip in rows}
    for path in folder.glob("*.safetensors"):
        if path.stem not in ids:
            path.unlink()
