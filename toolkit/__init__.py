"""castmix: fine-tune a cast of characters from show footage and mix them in one video.

import toolkit as castmix

castmix.generate("[Character: Pixo], jumps. [scene-style:cartoon]", Path("pixo.mp4"), lora=["run:0.8"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A verb and its module share a name, and the name bound last wins: the first import of `toolkit.train` binds
# the module. So the verbs are bound here, before anybody can import their modules alone, and `toolkit.train`
# is the function in every order of imports. Their modules are light; tests/test_imports.py sees to that.
from toolkit import captions
from toolkit.cache import cache
from toolkit.caption import caption
from toolkit.cast import Cast, Character, Show, read_cast
from toolkit.composite import composite
from toolkit.data import Clip, Sample, load_samples, read_clips
from toolkit.errors import CastmixError
from toolkit.evaluate import evaluate
from toolkit.fuse import fuse
from toolkit.generate import generate
from toolkit.invert import invert
from toolkit.look_attention import look_attention
from toolkit.models import MODELS, load_denoiser, load_encoders
from toolkit.motion import motion
from toolkit.prepare import prepare
from toolkit.segment import segment
from toolkit.segmentation.gates import Gates
from toolkit.settings import (
    Adapter,
    Collaboration,
    Features,
    Judge,
    Memory,
    Motion,
    Optim,
    Sigma,
    Textual,
    Watch,
)
from toolkit.train import train
from toolkit.video import read_video, write_video

if TYPE_CHECKING:
    from toolkit.lora import Lora, load_lora, save_lora
    from toolkit.recipes import demo

__all__ = [
    "MODELS", "Adapter", "Cast", "CastmixError", "Character", "Clip", "Collaboration", "Features", "Gates",
    "Judge", "Lora", "Memory", "Motion", "Optim", "Sample", "Show", "Sigma", "Textual", "Watch", "cache",
    "caption", "captions", "composite", "demo", "evaluate", "fuse", "generate", "invert", "load_denoiser",
    "load_encoders", "load_lora", "load_samples", "look_attention", "motion", "prepare", "read_cast",
    "read_clips", "read_video", "save_lora", "segment", "train", "write_video",
]  # fmt: skip

_HEAVY = {
    "Lora": "toolkit.lora",
    "demo": "toolkit.recipes",
    "load_lora": "toolkit.lora",
    "save_lora": "toolkit.lora",
}
"""Names whose modules are slow to import: resolved when they are asked for (PEP 562)."""


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
