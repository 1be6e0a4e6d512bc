"""Who is in a frame, and drawn in which style: a small network that reads pixels and nothing else.

It looks at single 64x96 frames and answers, for every named character of the sandbox's shows and for either
style, whether somewhere in the frame that character stands in that style. Evidence is local (a map of logits,
its soft maximum taken), so a character's style is read off the character, not off the scene behind it.
Creatures that it does not know are "nobody".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.errors import CastmixError
from toolkit.sandbox.world import HEIGHT, STYLES, WIDTH

WEIGHTS = Path(__file__).parent / "recogniser.safetensors"


class Recogniser(nn.Module):
    """Frames (B, 3, 64, 96) in -1..1 -> logits (B, names, styles)."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        layers: list[nn.Module] = []
        sizes = [(3, 24, 2), (24, 40, 2), (40, 64, 2), (64, 96, 1), (96, 96, 1), (96, 96, 1)]
        for fan_in, fan_out, stride in sizes:
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.GroupNorm(4, fan_out), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(96, len(self.names) * len(STYLES), 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of frames, the soft maximum of a map of them."""
        local = self.head(self.features(frames)).flatten(2)
        return (torch.logsumexp(4 * local, -1) / 4).view(-1, len(self.names), len(STYLES))


@dataclass(frozen=True)
class Verdict:
    """What was seen in a clip: `presence[name][style]`, the mean over frames of its probability, 0..1."""

    presence: dict[str, dict[str, float]]

    def seen(self, threshold: float = 0.5) -> dict[str, str]:
        """The characters that are there, each with the style it is drawn in."""
        best = {name: max(styles, key=lambda s: styles[s]) for name, styles in self.presence.items()}
        return {name: style for name, style in best.items() if self.presence[name][style] >= threshold}


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_recogniser(path: Path = WEIGHTS) -> Recogniser:
    """The recogniser that ships with the sandbox.

    Raises:
        CastmixError: Its weights are not there.
    """
    from safetensors import safe_open

    if not path.exists():
        raise CastmixError(
            f"no recogniser at {path}: make it with `castmix sandbox pretrain --part recogniser`"
        )
    with safe_open(path, "pt") as file:
        model = Recogniser(json.loads(file.metadata()["names"]))
        names = file.keys()
        model.load_state_dict({k: file.get_tensor(k).float() for k in names})
    return model.eval()


def recognise(model: Recogniser, frames: NDArray[np.uint8]) -> Verdict:
    """Judge a clip (F, 64, 96, 3). It reads every second frame.

    Raises:
        CastmixError: The frames have another size than the sandbox's.
    """
    if frames.shape[1:] != (HEIGHT, WIDTH, 3):
        raise CastmixError(
            f"the recogniser reads frames of {HEIGHT}x{WIDTH}, got {frames.shape[1]}x{frames.shape[2]}"
        )
    with torch.inference_mode():
        seen = model(to_tensor(frames[::2])).sigmoid().mean(0)
    return Verdict(
        {n: {s: float(seen[i, j]) for j, s in enumerate(STYLES)} for i, n in enumerate(model.names)}
    )
