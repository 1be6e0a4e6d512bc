"""Generated videos as files, which say of themselves that they are generated."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.files import write_atomic
from toolkit.core.version import __version__
from toolkit.footage.video import write_video

if TYPE_CHECKING:
    from torch import Tensor

NOTICE = "AI-generated video, made with castmix"


def save_generated(path: Path, video: Tensor, fps: float, facts: Mapping[str, Any]) -> None:
    """Write an mp4, and beside it a JSON file of the same name that says how it was made.

    video: (3, F, H, W) in [-1, 1]. facts: prompt, seed, model, …; the mp4's metadata has them too.
    """
    frames = ((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "peft")}
    record = {"ai_generated": True, **facts, "versions": {"castmix": __version__, **versions}}
    text = json.dumps(record, ensure_ascii=False)
    write_video(
        path, frames, fps, {"comment": NOTICE, "description": str(facts.get("prompt", "")), "castmix": text}
    )
    write_atomic(path.with_suffix(".json"), json.dumps(record, ensure_ascii=False, indent=1) + "\n")
