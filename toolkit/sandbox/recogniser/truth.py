"""Samples labelled clips for training and testing the recognisers, and corrupts them like a weak generator.

The seed of a clip determines its content. Training uses seeds from `TRAINING_SEEDS` on, tests use seeds from
`TEST_SEEDS` on. The base model's pretraining clips have seeds below 50,000,000, and the demo's generic
creatures from 900,000,000 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolkit.models.pixels import from_bytes
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

TRAINING_SEEDS, TEST_SEEDS = 500_000_000, 700_000_000
MAX_CREATURES = 3  # creatures in a clip
LOOK_VALUES = {"body": tuple(paint.BODIES), "colour": tuple(paint.COLOURS)}
LOOK_VALUES |= {"pattern": tuple(paint.PATTERNS), "accessory": tuple(paint.ACCESSORIES)}


def vocabulary(named: Mapping[str, world.Look]) -> Vocabulary:
    """Return all values that the sandbox's recognisers can predict."""
    values = {**LOOK_VALUES, "style": world.STYLES, "action": tuple(ACTIONS)}
    values |= {"scene": tuple(scenery.SCENES), "scene_style": world.STYLES}
    looks = {name: tuple(str(getattr(look, key)) for key in LOOK) for name, look in named.items()}
    return Vocabulary(values, looks)


@dataclass(frozen=True)
class LabelledClip:
    """The content of a clip, which is also its labels."""

    actors: tuple[world.Actor, ...]
    scene: str
    scene_style: str
    seed: int
    camera: world.Camera = world.STATIC_CAMERA
    prop: str = ""

    @property
    def interaction(self) -> str:
        """The interaction that the actors' actions form, or ""."""
        return find_interaction(tuple(a.action for a in self.actors))

    def draw(self, seconds: NDArray[np.float32] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw the clip: frames (F, H, W, 3) and visible masks (actors, F, H, W)."""
        return world.draw(
            self.actors, self.scene, self.scene_style,
            seconds=seconds, seed=self.seed, camera=self.camera, prop=self.prop,
        )  # fmt: skip


def near_miss(look: world.Look, rng: np.random.Generator) -> world.Look:
    """Return a look that differs in one attribute, sampled at random."""
    key = str(rng.choice(LOOK))
    return replace(look, **{key: str(rng.choice([v for v in LOOK_VALUES[key] if v != getattr(look, key)]))})


def swapped(looks: Sequence[world.Look], key: str) -> list[world.Look]:
    """Return two looks with one attribute swapped between them."""
    first, second = looks
    return [replace(first, **{key: getattr(second, key)}), replace(second, **{key: getattr(first, key)})]


def sample_looks(count: int, named: Mapping[str, world.Look], rng: np.random.Generator) -> list[world.Look]:
    """Sample the looks of a clip's creatures.

    Each creature is a named character, a near miss of one (one attribute differs), or has a random look. With
    probability 0.15, two named characters have one attribute swapped instead.
    """
    cast = [named[str(n)] for n in rng.permutation(list(named))[:count]]
    if count > 1 and rng.random() < 0.15:
        return swapped(cast[:2], str(rng.choice(["colour", "accessory"]))) + cast[2:]
    looks = []
    for look in cast:
        kind = rng.random()
        if kind < 0.35:
            look = near_miss(look, rng)
        elif kind < 0.65:
            look = world.Look(*(str(rng.choice(LOOK_VALUES[key])) for key in LOOK))
        looks.append(look)
    return looks


def sample_actions(count: int, rng: np.random.Generator) -> list[str]:
    """Sample the actions of a clip's creatures: independent ones, or with probability 0.42 an interaction."""
    if count > 1 and rng.random() < 0.42:
        name = str(rng.choice(list(INTERACTIONS)))
        roles = list(INTERACTIONS[name])
        if count == 3:
            own = str(rng.choice(list(BASE_ACTIONS)))
            roles = [roles[0], *roles] if name == "chase" and rng.random() < 0.7 else [*roles, own]
        return roles
    return [str(a) for a in rng.choice(list(BASE_ACTIONS | HELD_OUT_ACTIONS), count)]


def sample_clip(seed: int, named: Mapping[str, world.Look], *, varied: bool = True) -> LabelledClip:
    """Sample the clip of a seed. Each creature and the scene have independent styles.

    Args:
        seed: Determines the clip.
        named: Looks of the named characters.
        varied: Sample positions, sizes, phases and cameras from wider ranges than in pretraining.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25]))
    looks, actions = sample_looks(count, named, rng), sample_actions(count, rng)
    styles = [str(s) for s in rng.choice(world.STYLES, count)]
    actors = [world.Actor(k, a, s, 0.0) for k, a, s in zip(looks, actions, styles, strict=True)]
    placed = world.arrange(actors, rng)
    if varied:
        placed = _vary_placement(placed, rng)
    camera, kind = world.STATIC_CAMERA, rng.random()
    if kind < 0.15:
        camera = world.Camera(pan=float(rng.uniform(-0.35, 0.35)))
    elif kind < 0.3:
        camera = world.Camera(zoom=float(rng.uniform(0.85 if varied else 1.1, 1.35)))
    prop = str(rng.choice(scenery.PROPS)) if rng.random() < 0.3 else ""
    scene, style = str(rng.choice(scenery.SCENES)), str(rng.choice(world.STYLES))
    return LabelledClip(placed, scene, style, seed, camera, prop)


def _vary_placement(actors: Sequence[world.Actor], rng: np.random.Generator) -> tuple[world.Actor, ...]:
    """Vary position, size and phase of actors. The partners of an interaction stay close to each other."""
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
    """Convert frames (..., H, W, 3) uint8 to (..., 3, H, W) float32 in [-1, 1]."""
    return from_bytes(torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3))


def corrupt(clips: Tensor, masks: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Corrupt clips (N, F, 3, H, W) and masks (N, A, F, H, W) like the output of a weak generator.

    The corruptions are warping, blur, smooth colour noise, changed brightness, contrast and saturation, and
    pixel noise. Their strengths are sampled per clip; each is 0 for a fifth of the clips (some more often).
    """
    n, f, _, h, w = clips.shape

    def strength(share: float = 1.0) -> Tensor:
        """Sample a strength in [0, 1] per clip, which is 0 with probability 1 - 0.8 * share."""
        return torch.rand(n, 1, 1, 1, 1, generator=g) * (torch.rand(n, 1, 1, 1, 1, generator=g) < 0.8 * share)

    def drift(channels: int, rows: int, columns: int) -> Tensor:
        """Sample smooth noise (N, F, channels, H, W) that blends from one field to another over time."""
        fields = torch.randn(n * 2, channels, rows, columns, generator=g)
        fields = functional.interpolate(fields, size=(h, w), mode="bilinear").view(n, 2, channels, h, w)
        angle = (torch.linspace(0, torch.pi, f) + torch.rand(n, 1, generator=g))[..., None, None, None]
        mixed: Tensor = fields[:, :1] * angle.cos() + fields[:, 1:] * angle.sin()
        return mixed

    pull = drift(2, 5, 7) * strength() * torch.tensor([1.8 / w, 1.8 / h]).view(2, 1, 1)
    still = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, h, w], align_corners=False)
    grid = still + pull.movedim(2, -1).flatten(0, 1)
    everything = torch.cat([clips, masks.transpose(1, 2).float()], 2).flatten(0, 1)
    moved = functional.grid_sample(everything, grid, padding_mode="border", align_corners=False)
    moved = moved.view(n, f, -1, h, w)
    clips, masks = moved[:, :, :3], (moved[:, :, 3:] > 0.5).transpose(1, 2)
    for factor, mix in ((2, strength()), (4, 0.7 * strength(0.5))):
        small = functional.avg_pool2d(clips.flatten(0, 1), factor)
        soft = functional.interpolate(small, scale_factor=float(factor), mode="bilinear")
        clips = torch.lerp(clips, soft.view(n, f, 3, h, w), mix)
    grey = clips.mean(2, keepdim=True)
    clips = torch.lerp(grey, clips, 1 + 0.3 * (strength() - strength())) + 0.18 * strength(0.6) * drift(
        3, 8, 12
    )
    noise = torch.randn(n, 5, 3, h, w, generator=g)[:, torch.arange(f) % 5]
    clips = (
        clips * (1 + 0.15 * (strength() - strength()))
        + 0.12 * (strength() - strength())
        + 0.08 * strength() * noise
    )
    return clips.clamp(-1.1, 1.1), masks
