"""Wraps a diffusers `WanPipeline` that the user has already loaded as castmix's encoders and denoiser.

Its modules are not copied, cast or moved. The pipeline stays unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from toolkit.core.errors import CastmixError
from toolkit.models.interfaces import Geometry, ModelSpec
from toolkit.models.registry import find_model
from toolkit.models.wan import WanDenoiser, WanEncoders
from toolkit.models.weights import geometry_of


@dataclass(frozen=True)
class LoadedPipeline:
    """The parts of a pipeline in memory, and its settings."""

    spec: ModelSpec
    geometry: Geometry
    encoders: WanEncoders
    denoiser: WanDenoiser


def wrap_pipeline(pipe: Any, like: str | None = None) -> LoadedPipeline:
    """Wrap the parts of a WanPipeline.

    Args:
        pipe: A diffusers `WanPipeline` of Wan 2.1.
        like: Name in the registry whose steps, guidance scale, text length and fps are used. Default: the
            settings of Wan 2.1, with the shift of the pipeline's scheduler.

    Raises:
        CastmixError: The object is not a WanPipeline, or it is a Wan 2.2.
    """
    kind = type(pipe).__name__
    if kind != "WanPipeline":
        raise CastmixError(
            f"castmix.load takes a model's name, a folder or a diffusers WanPipeline, got a {kind}"
        )
    if getattr(pipe, "transformer_2", None) is not None or pipe.config.get("expand_timesteps"):
        raise CastmixError("this WanPipeline is a Wan 2.2: this version of castmix supports Wan 2.1 only")
    device = torch.device(pipe._execution_device)
    spec = _spec(pipe, like)
    encoders = WanEncoders(Path(), spec.text_length, device, pipe.text_encoder.dtype, owned=False)
    encoders.__dict__ |= {"vae": pipe.vae, "tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder}
    geometry = geometry_of(pipe.vae.config, pipe.transformer.config)
    return LoadedPipeline(spec, geometry, encoders, WanDenoiser(pipe.transformer, device))


def _spec(pipe: Any, like: str | None) -> ModelSpec:
    if like is not None:
        return replace(find_model(like), name=f"{like} in memory", path="")
    spec = ModelSpec(name="WanPipeline in memory", path="")
    config = pipe.scheduler.config
    return replace(spec, shift=float(config.get("flow_shift") or config.get("shift") or spec.shift))
