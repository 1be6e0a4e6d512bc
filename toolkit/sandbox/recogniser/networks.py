"""The networks of the recognisers, one small network a question. None of them ever sees a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

LOOK = ("body", "colour", "pattern", "accessory")
READ = (*LOOK, "style")
CROP, OFFSET = 40, 16.0  # pixels along a crop; what one unit of the finder's offsets means
GEOMETRY = 24


@dataclass(frozen=True)
class Vocabulary:
    """What can be answered: the values of every question, and who the named characters are.

    `values` has body, colour, pattern, accessory, style, action, scene and scene_style; `looks` the four
    attributes of `LOOK` of every named character.
    """

    values: Mapping[str, tuple[str, ...]]
    looks: Mapping[str, tuple[str, ...]]

    def who(self, look: Sequence[str]) -> str:
        """The named character with this look, or "" if it is nobody's."""
        return next((name for name, own in self.looks.items() if tuple(look) == own), "")

    def to_json(self) -> str:
        """The vocabulary as one line of JSON."""
        return json.dumps({"values": dict(self.values), "looks": dict(self.looks)})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Inverse of `to_json`."""
        values, looks = (json.loads(text)[key] for key in ("values", "looks"))
        return cls({k: tuple(v) for k, v in values.items()}, {k: tuple(v) for k, v in looks.items()})


def _block(fan_in: int, fan_out: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    pad = (kernel - 1) // 2
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, pad, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, fan_out), nn.SiLU())


class Finder(nn.Module):
    """Frames (B, 3, H, W) in -1..1 -> (B, 3, H, W): is a creature here (logit), and where is its middle.

    The middle is an offset (x, y) from the pixel, in units of `OFFSET` pixels. H and W are multiples of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(3, 20, 2), _block(20, 20))
        self.middle = nn.Sequential(_block(20, 48, 2), _block(48, 48))
        self.coarse = nn.Sequential(_block(48, 96, 2), _block(96, 96), _block(96, 96))
        self.up = nn.Conv2d(96, 48, 1)
        self.join = _block(48, 48)
        self.up_fine = nn.Conv2d(48, 20, 1)
        self.join_fine = _block(20, 20)
        self.head = nn.Conv2d(20, 12, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits and offsets, see the class."""
        fine = self.fine(frames)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join(middle + nn.functional.interpolate(self.up(coarse), scale_factor=2.0))
        fine = self.join_fine(fine + nn.functional.interpolate(self.up_fine(middle), scale_factor=2.0))
        return nn.functional.pixel_shuffle(self.head(fine), 2)


class Reader(nn.Module):
    """Masked crops (B, 4, 40, 40), the mask last -> logits (B, values) of body, colour, ... style."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_block(4, 32, 2), _block(32, 32), _block(32, 64, 2), _block(64, 64), _block(64, 96, 2)),
            *(nn.Flatten(), nn.Linear(96 * 25, 128), nn.LayerNorm(128), nn.SiLU()),
        )
        self.heads = nn.ModuleDict({key: nn.Linear(128, len(values[key])) for key in READ})

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Logits by attribute."""
        features = self.features(crops)
        return {key: head(features) for key, head in self.heads.items()}


class Mover(nn.Module):
    """How a creature's crops (B, F, 4, 20, 20) and geometry (B, F, GEOMETRY) change -> logits of actions."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.pose = nn.Sequential(
            *(_block(4, 24), _block(24, 32, 2), _block(32, 64, 2)),
            *(nn.Flatten(), nn.Linear(64 * 25, 64), nn.LayerNorm(64), nn.SiLU()),
        )
        self.geometry = nn.Sequential(nn.Linear(GEOMETRY, 64), nn.LayerNorm(64), nn.SiLU())
        self.time = nn.ModuleList(
            nn.Sequential(nn.Conv1d(128, 128, 5, padding=2), nn.GroupNorm(4, 128), nn.SiLU())
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.Linear(384, 128), nn.SiLU(), nn.Linear(128, actions))

    def forward(self, crops: Tensor, geometry: Tensor) -> Tensor:
        """Logits (B, actions)."""
        pose = self.pose(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        x = torch.cat([pose, self.geometry(geometry)], -1).transpose(1, 2)
        for layer in self.time:
            x = x + layer(x)
        halves = [half.mean(-1) for half in x.tensor_split(2, -1)]
        return cast(Tensor, self.head(torch.cat([*halves, x.amax(-1)], -1)))


class Place(nn.Module):
    """Frames without their creatures (B, 4, H, W), their mask last -> logits of scenes and scene styles."""

    def __init__(self, scenes: int, styles: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(4, 20, 2), _block(20, 32, 2), _block(32, 48, 2), _block(48, 64, 2)
        )
        self.scene = nn.Sequential(nn.Flatten(), nn.Linear(64 * 24, 64), nn.SiLU(), nn.Linear(64, scenes))
        self.style = nn.Linear(128, styles)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Logits of `scene` and `scene_style`."""
        x = self.features(frames)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], -1)
        return {"scene": self.scene(x), "scene_style": self.style(pooled)}


class Recognisers(nn.Module):
    """All four networks and what their answers are called."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        values = vocabulary.values
        self.finder = Finder()
        self.reader = Reader(values)
        self.mover = Mover(len(values["action"]))
        self.place = Place(len(values["scene"]), len(values["scene_style"]))
