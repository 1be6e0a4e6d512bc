"""The registry of base models, and functions that load a model's parts by name.

A base model is a folder in the layout of diffusers' ``WanPipeline``. To add a model with this layout, add an
entry to MODELS. For another architecture, add a file beside wan.py that implements the two protocols in
interfaces.py.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import Denoiser, Encoders, Geometry, ModelSpec

if TYPE_CHECKING:
    import torch


MODELS: dict[str, ModelSpec] = {
    "sandbox": ModelSpec(
        name="sandbox",
        path=str(Path(__file__).resolve().parent.parent / "sandbox" / "base"),
        text_length=64,
        shift=2.0,
        guidance_scale=2.5,
        steps=12,
        fps=8.0,
        num_frames=17,
        height=64,
        width=96,
        download="nothing: it is part of castmix, and `castmix sandbox pretrain` recreates it",
    ),
    "wan2.1-t2v-1.3b": ModelSpec(
        name="wan2.1-t2v-1.3b",
        path="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        download="about 29 GB: text encoder 22.7 GB, transformer 5.7 GB, VAE 0.5 GB",
    ),
    "wan2.1-t2v-14b": ModelSpec(
        name="wan2.1-t2v-14b",
        path="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        download="about 80 GB: transformer 57 GB, text encoder 22.7 GB, VAE 0.5 GB",
    ),
}


def find_model(name: str | ModelSpec) -> ModelSpec:
    """Find a model by its name: in the registry, as a local folder, or as an id on the Hugging Face Hub.

    Raises:
        CastmixError: There is no such model. The message offers the nearest name of the registry.
    """
    if isinstance(name, ModelSpec):
        return name
    if name in MODELS:
        return _with_own_settings(MODELS[name])
    if Path(name).is_dir():
        return _folder_spec(Path(name))
    if name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/"):
        return ModelSpec(name=name, path=name)
    nearest = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise CastmixError(
        f"no model {name!r}.{hint} --model takes one of {', '.join(MODELS)}, "
        "a local folder with a WanPipeline, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    )


def _folder_spec(folder: Path) -> ModelSpec:
    """Return a local pipeline's settings: Wan's defaults, its scheduler's shift, its castmix.json."""
    if not (folder / "model_index.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:6]
        raise CastmixError(
            f"{folder} is not a pipeline folder: model_index.json is missing "
            f"(it has {', '.join(found) or 'no files'}). "
            "Expected a folder as WanPipeline.save_pretrained writes it: model_index.json, scheduler/, "
            "text_encoder/, tokenizer/, transformer/, vae/"
        )
    spec = ModelSpec(name=folder.resolve().name, path=str(folder))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        config = json.loads(scheduler.read_text())
        spec = replace(spec, shift=float(config.get("flow_shift") or config.get("shift") or spec.shift))
    return _with_own_settings(spec)


def _with_own_settings(spec: ModelSpec) -> ModelSpec:
    own = Path(spec.path) / "castmix.json"
    if not own.is_file():
        return spec
    values: dict[str, Any] = json.loads(own.read_text())
    known = {field.name for field in fields(ModelSpec)} - {"name", "path"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CastmixError(f"{own}: unknown {', '.join(unknown)}; known settings: {', '.join(sorted(known))}")
    return replace(spec, **values)


def default_device() -> str:
    """Return "cuda" if torch sees a GPU (CUDA_VISIBLE_DEVICES selects one), otherwise "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_encoders(
    model: str | ModelSpec, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Encoders:
    """Return the VAE (always float32) and the text encoder of a model. Each is loaded on its first use.

    dtype: Type of the text encoder. Default: float32 on a CPU, otherwise bfloat16.
    """
    from toolkit.models.wan import WanEncoders

    return WanEncoders.load(find_model(model), device, dtype)


def load_denoiser(
    model: str | ModelSpec, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Denoiser:
    """Load the transformer of a model, frozen and in eval mode.

    dtype: Default: float32 on a CPU, otherwise bfloat16.
    """
    from toolkit.models.wan import WanDenoiser

    return WanDenoiser.load(find_model(model), device, dtype)


def latent_shape(
    model: str | ModelSpec, num_frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """Return the latent shape (C, f, h, w) of a video of this size, from the model's configuration files.

    Raises:
        CastmixError: num_frames is not 4k + 1, or a side is not a multiple of VAE stride times patch size.
            The message gives the nearest valid values.
    """
    from toolkit.models.weights import latent_geometry

    return shape_of(latent_geometry(find_model(model)), num_frames, height, width)


def shape_of(geometry: Geometry, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the latent shape (C, f, h, w) of a video of this size; see `latent_shape`."""
    channels, strides, multiples = geometry
    if num_frames < 1 or (num_frames - 1) % multiples[0]:
        lower = max(0, (num_frames - 1) // multiples[0]) * multiples[0] + 1
        raise CastmixError(
            f"num_frames must be {multiples[0]}k+1, got {num_frames}: use {lower} or {lower + multiples[0]}"
        )
    for side, size, multiple in (("height", height, multiples[1]), ("width", width, multiples[2])):
        if size < multiple or size % multiple:
            lower = max(1, size // multiple) * multiple
            raise CastmixError(
                f"{side} must be a multiple of {multiple}, got {size}: use {lower} or {lower + multiple}"
            )
    return channels, 1 + (num_frames - 1) // strides[0], height // strides[1], width // strides[2]


def fingerprint(model: str | ModelSpec, part: str = "transformer") -> str:
    """Return 16 hex digits that change if the weights or configuration of a part change.

    part: "transformer" (LoRA files record it) or "encoders" (caches record it: VAE, text encoder, tokenizer
    and text_length). Files over 64 MiB are sampled, not read completely.
    """
    from toolkit.models.weights import fingerprint_parts

    return fingerprint_parts(find_model(model), part)
