"""The recognisers' networks: a detector and three classifiers. None of them sees a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

LOOK = ("body", "colour", "pattern", "accessory")
ATTRIBUTES = (*LOOK, "style")
CROP_SIZE = 40  # side of a crop in pixels
OFFSET_SCALE = 16.0  # pixels per unit of the detector's centre offsets
GEOMETRY_SIZE = 24  # number of position features; see tracking.geometry_features


@dataclass(frozen=True)
class Vocabulary:
    """The classes that the recognisers predict.

    Attributes:
        values: Possible values of body, colour, pattern, accessory, style, action, scene and scene_style.
        looks: The four attributes of `LOOK` of each named character.
    """

    values: Mapping[str, tuple[str, ...]]
    looks: Mapping[str, tuple[str, ...]]

    def who(self, look: Sequence[str]) -> str:
        """Return the named character with this look, or "" if there is none."""
        return next((name for name, own in self.looks.items() if tuple(look) == own), "")

    def to_json(self) -> str:
        """Return the vocabulary as one line of JSON."""
        return json.dumps({"values": dict(self.values), "looks": dict(self.looks)})

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """Read a vocabulary from JSON; the inverse of `to_json`."""
        values, looks = (json.loads(text)[key] for key in ("values", "looks"))
        return cls({k: tuple(v) for k, v in values.items()}, {k: tuple(v) for k, v in looks.items()})


def _block(fan_in: int, fan_out: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    pad = (kernel - 1) // 2
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, pad, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, fan_out), nn.SiLU())


class CreatureDetector(nn.Module):
    """Predicts for each pixel whether it shows a creature, and the offset to the creature's centre.

    Input: frames (B, 3, H, W) in [-1, 1]; H and W are multiples of 8. Output: (B, 3, H, W). The channels are
    a logit and the offset (x, y) in units of `OFFSET_SCALE` pixels.
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
        """Return logits and offsets; see the class."""
        fine = self.fine(frames)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.join(middle + nn.functional.interpolate(self.up(coarse), scale_factor=2.0))
        fine = self.join_fine(fine + nn.functional.interpolate(self.up_fine(middle), scale_factor=2.0))
        return nn.functional.pixel_shuffle(self.head(fine), 2)


class AppearanceClassifier(nn.Module):
    """Predicts look and style from masked crops (B, 4, 40, 40); the last channel is the mask."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_block(4, 32, 2), _block(32, 32), _block(32, 64, 2), _block(64, 64), _block(64, 96, 2)),
            *(nn.Flatten(), nn.Linear(96 * 25, 128), nn.LayerNorm(128), nn.SiLU()),
        )
        self.heads = nn.ModuleDict({key: nn.Linear(128, len(values[key])) for key in ATTRIBUTES})

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Return logits (B, values) of each attribute in `ATTRIBUTES`."""
        features = self.features(crops)
        return {key: head(features) for key, head in self.heads.items()}


class ActionClassifier(nn.Module):
    """Predicts actions from crops (B, F, 4, 20, 20) and position features (B, F, GEOMETRY_SIZE)."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.pose = nn.Sequential(
            *(_block(4, 24), _block(24, 32, 2), _block(32, 64, 2)),
            *(nn.Flatten(), nn.Linear(64 * 25, 64), nn.LayerNorm(64), nn.SiLU()),
        )
        self.geometry = nn.Sequential(nn.Linear(GEOMETRY_SIZE, 64), nn.LayerNorm(64), nn.SiLU())
        self.time = nn.ModuleList(
            nn.Sequential(nn.Conv1d(128, 128, 5, padding=2), nn.GroupNorm(4, 128), nn.SiLU())
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.Linear(384, 128), nn.SiLU(), nn.Linear(128, actions))

    def forward(self, crops: Tensor, geometry: Tensor) -> Tensor:
        """Return logits (B, actions)."""
        pose = self.pose(crops.flatten(0, 1)).unflatten(0, crops.shape[:2])
        x = torch.cat([pose, self.geometry(geometry)], -1).transpose(1, 2)
        for layer in self.time:
            x = x + layer(x)
        halves = [half.mean(-1) for half in x.tensor_split(2, -1)]
        return cast(Tensor, self.head(torch.cat([*halves, x.amax(-1)], -1)))


class SceneClassifier(nn.Module):
    """Predicts scene and scene style from frames with the creatures masked out, (B, 4, H, W), mask last."""

    def __init__(self, scenes: int, styles: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(4, 20, 2), _block(20, 32, 2), _block(32, 48, 2), _block(48, 64, 2)
        )
        self.scene = nn.Sequential(nn.Flatten(), nn.Linear(64 * 24, 64), nn.SiLU(), nn.Linear(64, scenes))
        self.style = nn.Linear(128, styles)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """Return logits of `scene` and `scene_style`."""
        x = self.features(frames)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], -1)
        return {"scene": self.scene(x), "scene_style": self.style(pooled)}


class Recognisers(nn.Module):
    """The four networks and their classes. The attribute names are the prefixes of the saved weights."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        values = vocabulary.values
        self.finder = CreatureDetector()
        self.reader = AppearanceClassifier(values)
        self.mover = ActionClassifier(len(values["action"]))
        self.place = SceneClassifier(len(values["scene"]), len(values["scene_style"]))
