"""Generated videos: frames that play in a notebook, and files that record how they were made."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import safetensors_bytes, write_atomic
from toolkit.core.version import __version__
from toolkit.footage.decoding import Frames
from toolkit.footage.video import write_video

if TYPE_CHECKING:
    from torch import Tensor

NOTICE = "AI-generated video, made with castmix"


@dataclass(frozen=True, eq=False)
class Video:
    """A generated video. As the last value of a notebook cell it plays.

    Attributes:
        frames: (F, H, W, 3) uint8, RGB.
        fps: Frames a second.
        facts: How it was made: prompt, seed, model, LoRAs, settings, versions.
        log: One record per step of collaborative sampling.
        maps: Attention maps of guided steps, if `collaboration.keep_maps` asked for them.
        subjects: The subjects that the maps are of.
    """

    frames: Frames
    fps: float
    facts: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...] = ()
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()

    def save(self, path: str | Path) -> Path:
        """Write an mp4 whose metadata holds the facts, and a JSON file beside it with the same facts.

        Collaborative sampling adds NAME.steps.jsonl, and NAME.maps.safetensors if maps were kept.

        Returns:
            The path of the mp4.

        Raises:
            CastmixError: the path does not end in .mp4.
        """
        path = Path(path)
        if path.suffix != ".mp4":
            raise CastmixError(f"{path}: a video is written as .mp4")
        text = json.dumps(self.facts, ensure_ascii=False)
        about = {"comment": NOTICE, "description": str(self.facts.get("prompt", "")), "castmix": text}
        if self.log:
            lines = "".join(json.dumps(line) + "\n" for line in self.log)
            write_atomic(path.with_suffix(".steps.jsonl"), lines)
        if self.maps:
            names = {"subjects": json.dumps(list(self.subjects), ensure_ascii=False)}
            write_atomic(path.with_suffix(".maps.safetensors"), safetensors_bytes(self.maps, names))
        write_video(path, self.frames, self.fps, about)
        write_atomic(path.with_suffix(".json"), json.dumps(self.facts, ensure_ascii=False, indent=1) + "\n")
        return path

    def _repr_html_(self) -> str:
        """A player with the video inside, for notebooks."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            write_video(path, self.frames, self.fps, {"comment": NOTICE})
            data = base64.b64encode(path.read_bytes()).decode()
        width = max(320, self.frames.shape[2])
        return (
            f'<video controls loop autoplay muted playsinline width="{width}" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )

    def __repr__(self) -> str:
        frames, height, width, _ = self.frames.shape
        return f"Video({frames} frames of {width}x{height}, {self.fps:g} fps, {self.facts.get('prompt')!r})"


def new_video(video: Tensor, fps: float, facts: Mapping[str, Any], **extra: Any) -> Video:
    """A decoded video (3, F, H, W) in [-1, 1] as a `Video`; versions are added to its facts."""
    from toolkit.models.pixels import video_to_frames

    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "peft")}
    record = {"ai_generated": True, **facts, "versions": {"castmix": __version__, **versions}}
    return Video(video_to_frames(video), fps, record, **extra)
