"""`castmix generate`: a prompt and LoRAs to a video that says of itself that it is generated."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from toolkit.captions import SCENE_TAG, TAG, tag
from toolkit.cast import read_cast
from toolkit.data import fingerprint_file
from toolkit.errors import CastmixError
from toolkit.models import (
    Denoiser,
    Encoders,
    ModelSpec,
    default_device,
    find_model,
    fingerprint,
    latent_shape,
    load_denoiser,
    load_encoders,
)
from toolkit.progress import say, track
from toolkit.prompts import expand
from toolkit.run import write_run

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.lora import Lora

Number = TypeVar("Number", int, float)


def generate(
    prompt: str | list[str],
    out: Path,
    *,
    lora: Sequence[str] = (),
    model: str = "sandbox",
    negative_prompt: str = "",
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    shift: float | None = None,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 1,
) -> list[Path]:
    """Generate a video for each prompt, with a JSON file beside it that says how.

    The same seed gives the same bytes on the same machine, and the initial noise is the one that diffusers
    draws for it on a CPU.

    Args:
        prompt: One or several; @sandbox or @FILE.jsonl is every prompt of a file (see presets/prompts).
        out: An .mp4 file for one prompt; a folder for several (000.mp4, 001.mp4, …).
        lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8); 1 if left out.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        negative_prompt: What guidance leads away from.
        seed: Of the first prompt's noise; the others count on from it.
        steps: Denoising steps; left out, like all below, the model's own.
        guidance_scale: How strongly the prompt is followed; 1 is without guidance.
        shift: Of the noise levels towards noise.
        num_frames: Frames, 4k+1.
        height: In pixels.
        width: In pixels.
        batch_size: Prompts at a time. More are faster; a video's last bits may depend on its neighbours.

    Returns:
        The mp4 files, in the order of the prompts.

    Raises:
        CastmixError: sizes that the model cannot make, a LoRA that does not fit, a missing model.
    """
    arguments = dict(locals())
    spec = find_model(model)
    prompts = expand([prompt] if isinstance(prompt, str) else prompt)
    paths = _paths(Path(out), len(prompts))
    loras = [parse_lora(one) for one in ([lora] if isinstance(lora, (str, Path)) else lora)]
    if not 0 <= seed < 2**63:
        raise CastmixError(f"seed must be between 0 and 2^63 - 1, got {seed}")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise CastmixError(f"guidance_scale must be finite, got {guidance_scale}")
    settings = Settings(
        negative_prompt=negative_prompt,
        steps=_positive("steps", steps, spec.steps),
        guidance_scale=spec.guidance_scale if guidance_scale is None else guidance_scale,
        shift=_positive("shift", shift, spec.shift),
        num_frames=spec.num_frames if num_frames is None else num_frames,
        height=spec.height if height is None else height,
        width=spec.width if width is None else width,
        batch_size=_positive("batch_size", batch_size, 1),
    )
    facts = {
        "model": spec.name,
        "model_fingerprint": fingerprint(spec),
        **{key: value for key, value in vars(settings).items() if key != "batch_size"},
        "fps": spec.fps,
        "loras": [
            {"path": path.as_posix(), "weight": weight, "fingerprint": fingerprint_file(path)}
            for path, weight in loras
        ],
    }
    _sample_and_save(spec, prompts, paths, seed, loras, settings, facts)
    if Path(out).suffix != ".mp4":
        write_run(Path(out) / "run.yaml", "generate", arguments)
    return paths


@dataclass(frozen=True)
class Settings:
    """How all videos of a call are made; see `generate`."""

    negative_prompt: str
    steps: int
    guidance_scale: float
    shift: float
    num_frames: int
    height: int
    width: int
    batch_size: int


def parse_lora(text: str | Path) -> tuple[Path, float]:
    """``path:weight`` or ``path`` to the file and its weight. Only a number after the last colon is a weight.

    Raises:
        CastmixError: there is no such file.
    """
    head, colon, tail = str(text).rpartition(":")
    path, weight = Path(text), 1.0
    if colon and head and not path.exists():
        with contextlib.suppress(ValueError):  # a colon of the path itself, as in C:\\runs\\a.safetensors
            weight = float(tail)
            path = Path(head)
    if not math.isfinite(weight):
        raise CastmixError(f"--lora {text}: the weight must be a finite number, got {tail}")
    path = path / "lora.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CastmixError(f"--lora {text}: no file {path}; expected PATH or PATH:WEIGHT, such as run/a:0.8")
    return path, weight


def _paths(out: Path, count: int) -> list[Path]:
    if count == 0:
        raise CastmixError("no prompt: give one or several")
    if out.suffix == ".mp4":
        if count > 1:
            raise CastmixError(f"{count} prompts need a folder for --out, got the file {out}")
        return [out]
    if out.suffix and not out.is_dir():
        raise CastmixError(f"--out {out}: videos are written as .mp4, or into a folder")
    return [out / f"{i:03d}.mp4" for i in range(count)]


def _positive(name: str, value: Number | None, default: Number) -> Number:
    if value is not None and not value > 0:
        raise CastmixError(f"{name} must be above 0, got {value:g}")
    return default if value is None else value


def _sample_and_save(
    spec: ModelSpec,
    prompts: Sequence[str],
    paths: Sequence[Path],
    seed: int,
    loras: Sequence[tuple[Path, float]],
    settings: Settings,
    facts: dict[str, Any],
) -> None:
    """Encode all prompts, free the text encoder, load the network; then sample and save in batches."""
    from toolkit.adapters import activate
    from toolkit.generated import save_generated
    from toolkit.lora import load_lora
    from toolkit.sampling import sample_latents

    shape = latent_shape(spec, settings.num_frames, settings.height, settings.width)
    loaded = [(path, load_lora(path), weight) for path, weight in loras]
    _hint(prompts, [one.metadata for _, one, _ in loaded])
    device = default_device()
    encoders = load_encoders(spec, device)
    embeds = _encode(spec, encoders, [*prompts, settings.negative_prompt])
    encoders.release_text()
    denoiser = load_denoiser(spec, device)
    weights = _attach(denoiser, loaded, facts["model_fingerprint"])
    size, count = settings.batch_size, len(paths)
    batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
    ticks = iter(track(range(len(batches) * settings.steps), "generating"))

    def tick(step: int, latents: Tensor) -> None:
        next(ticks, None)

    with activate(denoiser.module, weights):
        for rows in batches:
            latents = sample_latents(
                denoiser,
                embeds[rows.start : rows.stop],
                embeds[-1:],
                shape=shape,
                seeds=[seed + row for row in rows],
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                shift=settings.shift,
                callback=tick,
            )
            for row, one in zip(rows, latents, strict=True):
                video = encoders.decode_video(one.unsqueeze(0))[0]
                own = {"prompt": prompts[row], "seed": seed + row}
                save_generated(paths[row], video, spec.fps, {**own, **facts})
    for _ in ticks:  # the bar ends
        pass


def _hint(prompts: Sequence[str], metadata: Sequence[Mapping[str, str]]) -> None:
    """Say where a prompt has a misspelt tag, names nobody, or names somebody whom the LoRAs do not know.

    It is made all the same.
    """
    rest = [SCENE_TAG.sub("", TAG.sub("", prompt)) for prompt in prompts]
    if broken := sorted({word for text in rest for word in text.split() if "[" in word}):
        tags = "[Character: <name>] and [scene-style:<style>]"
        say(f"note: {broken[0]!r} begins no tag: there are {tags}")
    known = {name for one in metadata for name in json.loads(one.get("castmix.cast", "[]"))}
    if not known:
        return
    notes: dict[str, list[str]] = {}
    for prompt in prompts:
        tagged = set(TAG.findall(prompt))
        if strange := tagged - known:
            notes.setdefault(f"names {', '.join(sorted(strange))}", []).append(prompt)
        elif not tagged:
            notes.setdefault("has no [Character: <name>]", []).append(prompt)
    for what, [first, *others] in notes.items():
        hint = ""
        with contextlib.suppress(CastmixError):
            hint = f"; did you mean {tag(first, read_cast())!r}?" if not TAG.search(first) else ""
        more = f" (and {len(others)} more like it)" if others else ""
        say(f"note: {first[:60]!r} {what}{more}, the LoRAs know {', '.join(sorted(known))}{hint}")


def _encode(spec: ModelSpec, encoders: Encoders, prompts: Sequence[str]) -> Tensor:
    """Embeddings (len(prompts), L, D); a prompt that is too long for the model is told."""
    for prompt in prompts:
        tokens = encoders.count_tokens(prompt)
        if tokens > spec.text_length:
            limit = f"{spec.name} takes {spec.text_length}: its end is cut off"
            say(f"warning: the prompt {prompt[:40]!r}… has {tokens} tokens, {limit}")
    return encoders.encode_text(prompts)


def _attach(denoiser: Denoiser, loras: Sequence[tuple[Path, Lora, float]], base: str) -> dict[str, float]:
    """Put the LoRAs into the network under their files' names; weights by name."""
    from toolkit.adapters import attach

    weights: dict[str, float] = {}
    for path, lora, weight in loras:
        stem = path.parent.name if path.name == "lora.safetensors" else path.stem
        name = stem.replace(".", "_") or "lora"
        while name in weights:
            name += "_"
        attach(denoiser.module, lora, name, base)
        weights[name] = weight
    return weights
