"""castmix: fine-tune a cast of characters from show footage and mix them in one video.

import toolkit as castmix

castmix.generate("[Character: Pixo], jumps. [scene-style:cartoon]", "pixo.mp4", lora=["run:0.8"])
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from toolkit.core.version import __version__ as __version__

if TYPE_CHECKING:
    from toolkit import captions
    from toolkit.captions.cast import Cast, Character, Show, read_cast
    from toolkit.commands.attention_maps import attention_maps
    from toolkit.commands.cache import cache
    from toolkit.commands.caption import caption
    from toolkit.commands.composite import composite
    from toolkit.commands.demo import demo
    from toolkit.commands.evaluate import evaluate
    from toolkit.commands.fuse import fuse
    from toolkit.commands.generate import generate
    from toolkit.commands.learn_motion import learn_motion
    from toolkit.commands.learn_tokens import learn_tokens
    from toolkit.commands.prepare import prepare
    from toolkit.commands.segment import segment
    from toolkit.commands.train import train
    from toolkit.core.errors import CastmixError
    from toolkit.evaluation.settings import Features, Judge
    from toolkit.footage.clips import Clip, read_clips
    from toolkit.footage.video import read_video, write_video
    from toolkit.fusion.settings import Distil, Examples, FusedFile, Sparse, Squares
    from toolkit.lora.file import Lora, load_lora, save_lora
    from toolkit.lora.settings import Adapter
    from toolkit.models.registry import MODELS, load_denoiser, load_encoders
    from toolkit.sampling.output import Video
    from toolkit.sampling.session import Studio, load
    from toolkit.sampling.settings import Collaboration, Masked, Sampling
    from toolkit.segmentation.quality_gates import Gates
    from toolkit.training.cached_clips import Sample, load_samples
    from toolkit.training.settings import (
        Batches,
        Memory,
        Motion,
        MotionTraining,
        Objective,
        Optim,
        Sigma,
        Textual,
        Verb,
        Watch,
    )

__all__ = [
    "MODELS", "Adapter", "Batches", "Cast", "CastmixError", "Character", "Clip", "Collaboration", "Distil",
    "Examples", "Features", "FusedFile", "Gates", "Judge", "Lora", "Masked", "Memory", "Motion",
    "MotionTraining", "Objective", "Optim", "Sample", "Sampling", "Show", "Sigma", "Sparse", "Squares",
    "Studio", "Textual", "Verb", "Video", "Watch", "attention_maps", "cache", "caption", "captions",
    "composite", "demo", "evaluate", "fuse", "generate", "learn_motion", "learn_tokens", "load",
    "load_denoiser", "load_encoders", "load_lora", "load_samples", "prepare", "read_cast", "read_clips",
    "read_video", "save_lora", "segment", "train", "write_video",
]  # fmt: skip

_HOMES = {
    "captions.cast": ("Cast", "Character", "Show", "read_cast"),
    "commands.attention_maps": ("attention_maps",),
    "commands.cache": ("cache",),
    "commands.caption": ("caption",),
    "commands.composite": ("composite",),
    "commands.demo": ("demo",),
    "commands.evaluate": ("evaluate",),
    "commands.fuse": ("fuse",),
    "commands.generate": ("generate",),
    "commands.learn_motion": ("learn_motion",),
    "commands.learn_tokens": ("learn_tokens",),
    "commands.prepare": ("prepare",),
    "commands.segment": ("segment",),
    "commands.train": ("train",),
    "core.errors": ("CastmixError",),
    "evaluation.settings": ("Features", "Judge"),
    "footage.clips": ("Clip", "read_clips"),
    "footage.video": ("read_video", "write_video"),
    "fusion.settings": ("Distil", "Examples", "FusedFile", "Sparse", "Squares"),
    "lora.file": ("Lora", "load_lora", "save_lora"),
    "lora.settings": ("Adapter",),
    "models.registry": ("MODELS", "load_denoiser", "load_encoders"),
    "sampling.output": ("Video",),
    "sampling.session": ("Studio", "load"),
    "sampling.settings": ("Collaboration", "Masked", "Sampling"),
    "segmentation.quality_gates": ("Gates",),
    "training.cached_clips": ("Sample", "load_samples"),
    "training.settings": (
        *("Batches", "Memory", "Motion", "MotionTraining", "Objective", "Optim"),
        *("Sigma", "Textual", "Verb", "Watch"),
    ),
}
"""Public names by module. Each is imported when it is first used (PEP 562), so `import toolkit` is quick."""

_MODULES = {name: f"toolkit.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "captions":
        return importlib.import_module("toolkit.captions")
    if name not in _MODULES:
        return _renamed(name)
    found = getattr(importlib.import_module(_MODULES[name]), name)
    if not _MODULES[name].startswith("toolkit.commands."):
        return found
    from toolkit.cli.calls import flexible

    return flexible(found)


def _renamed(name: str) -> Any:
    """The verb of that old name. Old names work for one more release."""
    from toolkit.cli.synonyms import RENAMED

    new = RENAMED.get(name.replace("_", "-"), "").replace("-", "_")
    if not new:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    warnings.warn(f"toolkit.{name} is now toolkit.{new}", FutureWarning, stacklevel=3)
    return __getattr__(new)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
