"""Truth to train and to test the recognisers on, and what spoils it as small generators spoil their videos.

Seeds decide everything. Recognisers are trained on seeds from `TRAINING` on and tested on seeds from
`TESTING` on; the base model's clips have seeds below 50,000,000, the demo's strangers from 900,000,000 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolkit.sandbox.recogniser.networks import LOOK, Vocabulary
from toolkit.sandbox.world import paint, scenery, world
from toolkit.sandbox.world.actions import (
    ACTIONS,
    BASE_ACTIONS,
    HELD_OUT_ACTIONS,
    INTERACTIONS,
    ROLES,
    find_interaction,
)

TRAINING, TESTING = 500_000_000, 700_000_000
MOST = 3  # creatures in a clip
POOLS = {"body": tuple(paint.BODIES), "colour": tuple(paint.COLOURS)}
POOLS |= {"pattern": tuple(paint.PATTERNS), "accessory": tuple(paint.ACCESSORIES)}


def vocabulary(named: Mapping[str, world.Look]) -> Vocabulary:
    """Everything that the sandbox's recognisers can answer."""
    values = {**POOLS, "style": world.STYLES, "action": tuple(ACTIONS)}
    values |= {"scene": tuple(scenery.SCENES), "scene_style": world.STYLES}
    looks = {name: tuple(str(getattr(look, key)) for key in LOOK) for name, look in named.items()}
    return Vocabulary(values, looks)


@dataclass(frozen=True)
class Truth:
    """A clip before it is drawn, and so everything that there is to recognise."""

    actors: tuple[world.Actor, ...]
    scene: str
    scene_style: str
    seed: int
    camera: world.Camera = world.STATIC_CAMERA
    prop: str = ""

    @property
    def interaction(self) -> str:
        """What the creatures do together, "" if nothing."""
        return find_interaction(tuple(a.action for a in self.actors))

    def draw(self, seconds: NDArray[np.float32] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Frames (F, H, W, 3) and visible masks (actors, F, H, W)."""
        return world.draw(
            self.actors, self.scene, self.scene_style,
            seconds=seconds, seed=self.seed, camera=self.camera, prop=self.prop,
        )  # fmt: skip


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """The same look but for one attribute."""
    key = str(rng.choice(LOOK))
    return replace(look, **{key: str(rng.choice([v for v in POOLS[key] if v != getattr(look, key)]))})


def swapped(looks: Sequence[world.Look], key: str) -> list[world.Look]:
    """Two looks that have changed places in one attribute."""
    first, second = looks
    return [replace(first, **{key: getattr(second, key)}), replace(second, **{key: getattr(first, key)})]


def looks_for(count: int, named: Mapping[str, world.Look], rng: np.random.Generator) -> list[world.Look]:
    """Looks of creatures in one clip: named ones, near misses of them, strangers, pairs that have swapped."""
    cast = [named[str(n)] for n in rng.permutation(list(named))[:count]]
    if count > 1 and rng.random() < 0.15:
        return swapped(cast[:2], str(rng.choice(["colour", "accessory"]))) + cast[2:]
    looks = []
    for look in cast:
        kind = rng.random()
        if kind < 0.35:
            look = near_miss(look, rng)
        elif kind < 0.65:
            look = world.Look(*(str(rng.choice(POOLS[key])) for key in LOOK))
        looks.append(look)
    return looks


def actions_for(count: int, rng: np.random.Generator) -> list[str]:
    """What the creatures of a clip do: each something of its own, or some of them something together."""
    if count > 1 and rng.random() < 0.42:
        name = str(rng.choice(list(INTERACTIONS)))
        roles = list(INTERACTIONS[name])
        if count == 3:
            own = str(rng.choice(list(BASE_ACTIONS)))
            roles = [roles[0], *roles] if name == "chase" and rng.random() < 0.7 else [*roles, own]
        return roles
    return [str(a) for a in rng.choice(list(BASE_ACTIONS | HELD_OUT_ACTIONS), count)]


def truth(seed: int, named: Mapping[str, world.Look], *, varied: bool = True) -> Truth:
    """The clip of a seed. Styles of creatures and scene are independent.

    varied: places, sizes, beginnings and cameras go well beyond what the base model is trained on.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25]))
    looks, actions = looks_for(count, named, rng), actions_for(count, rng)
    styles = [str(s) for s in rng.choice(world.STYLES, count)]
    actors = [world.Actor(k, a, s, 0.0) for k, a, s in zip(looks, actions, styles, strict=True)]
    placed = world.arrange(actors, rng)
    if varied:
        placed = _scattered(placed, rng)
    camera, kind = world.STATIC_CAMERA, rng.random()
    if kind < 0.15:
        camera = world.Camera(pan=float(rng.uniform(-0.35, 0.35)))
    elif kind < 0.3:
        camera = world.Camera(zoom=float(rng.uniform(0.85 if varied else 1.1, 1.35)))
    prop = str(rng.choice(scenery.PROPS)) if rng.random() < 0.3 else ""
    scene, style = str(rng.choice(scenery.SCENES)), str(rng.choice(world.STYLES))
    return Truth(placed, scene, style, seed, camera, prop)


def _scattered(actors: Sequence[world.Actor], rng: np.random.Generator) -> tuple[world.Actor, ...]:
    """The same actors elsewhere, larger or smaller; who plays a role stays near its partner."""
    shift, rise = rng.uniform(-0.1, 0.1) / len(actors), rng.uniform(-0.06, 0.04)
    factor = rng.uniform(0.85, 1.2)
    together = any(a.action in ROLES for a in actors)
    moved = []
    for actor in actors:
        own = 0.02 if together else 0.12 / len(actors)
        x = actor.x + shift + rng.uniform(-own, own)
        ground = actor.ground + rise + (0 if together else rng.uniform(-0.03, 0.03))
        size = actor.size * (rng.uniform(0.95, 1.05) if together else factor * rng.uniform(0.9, 1.1))
        phase = float(rng.uniform()) if actor.action not in ROLES and rng.random() < 0.3 else 0.0
        moved.append(replace(actor, x=float(x), ground=float(ground), size=float(size), phase=phase))
    return tuple(moved)


def to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float() / 127.5 - 1


def spoil(clips: Tensor, masks: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips (N, F, 3, H, W) and masks (N, A, F, H, W) as a young generator would draw them.

    Outlines waver, everything is soft, clouds of colour drift through; brightness, contrast and saturation
    are off, and there is noise. How much of each, every clip decides anew; of each, a fifth has nothing.
    """
    n, f, _, h, w = clips.shape

    def draw(share: float = 1.0) -> Tensor:
        return torch.rand(n, 1, 1, 1, 1, generator=g) * (torch.rand(n, 1, 1, 1, 1, generator=g) < 0.8 * share)

    def drift(channels: int, rows: int, columns: int) -> Tensor:
        """Smooth noise (N, F, channels, H, W): two fields that fade into each other and back."""
        fields = torch.randn(n * 2, channels, rows, columns, generator=g)
        fields = functional.interpolate(fields, size=(h, w), mode="bilinear").view(n, 2, channels, h, w)
        angle = (torch.linspace(0, torch.pi, f) + torch.rand(n, 1, generator=g))[..., None, None, None]
        mixed: Tensor = fields[:, :1] * angle.cos() + fields[:, 1:] * angle.sin()
        return mixed

    pull = drift(2, 5, 7) * draw() * torch.tensor([1.8 / w, 1.8 / h]).view(2, 1, 1)
    still = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, h, w], align_corners=False)
    grid = still + pull.movedim(2, -1).flatten(0, 1)
    everything = torch.cat([clips, masks.transpose(1, 2).float()], 2).flatten(0, 1)
    moved = functional.grid_sample(everything, grid, padding_mode="border", align_corners=False)
    moved = moved.view(n, f, -1, h, w)
    clips, masks = moved[:, :, :3], (moved[:, :, 3:] > 0.5).transpose(1, 2)
    for factor, mix in ((2, draw()), (4, 0.7 * draw(0.5))):
        small = functional.avg_pool2d(clips.flatten(0, 1), factor)
        soft = functional.interpolate(small, scale_factor=float(factor), mode="bilinear")
        clips = torch.lerp(clips, soft.view(n, f, 3, h, w), mix)
    grey = clips.mean(2, keepdim=True)
    clips = torch.lerp(grey, clips, 1 + 0.3 * (draw() - draw())) + 0.18 * draw(0.6) * drift(3, 8, 12)
    noise = torch.randn(n, 5, 3, h, w, generator=g)[:, torch.arange(f) % 5]
    clips = clips * (1 + 0.15 * (draw() - draw())) + 0.12 * (draw() - draw()) + 0.08 * draw() * noise
    return clips.clamp(-1.1, 1.1), masks
