"""What the sandbox's SAM 2 is trained by: drawn cases, batches of objects, and how wrong masks are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolkit.sandbox.sam2_model.examples import KINDS, SHARES, case
from toolkit.sandbox.sam2_model.network import FINE, SIZE
from toolkit.sandbox.sam2_model.rollout import Asked, Drawn
from toolkit.sandbox.world import world
from toolkit.segmentation.sam2 import IMAGENET

SHARD, MOST = 100, 3  # cases a file, creatures kept of each
FARTHEST = 3  # frames between two that follow each other in a batch
SEEN = 6.0  # cells of a mask that make a creature worth a prompt
PROMPTS = ("box", "click", "clicks")


@dataclass(frozen=True)
class Fare:
    """What cases are like: frames of each, shares of the kinds, rates in frames a second."""

    frames: int
    shares: tuple[float, ...]
    rates: tuple[float, ...]


SHORT = Fare(8, SHARES, (6.0, 8.0, 8.0, 12.0, 16.0))
SLOW = Fare(16, (0.05, 0.1, 0.4, 0.3, 0.15), (6.0, 8.0, 8.0, 10.0))
"""Mostly crossings, in which creatures hide each other for as long as they do in clips of 24 frames."""


def draw_shard(path: Path, index: int, looks: Sequence[world.Look], fare: Fare = SHORT) -> None:
    """Draw `SHARD` cases into a file.

    frames (N, F, SIZE, SIZE, 3), and masks (N, MOST, F, FINE, FINE): how much of each cell is the creature,
    0..255.
    """
    frames = np.zeros((SHARD, fare.frames, SIZE, SIZE, 3), np.uint8)
    masks = np.zeros((SHARD, MOST, fare.frames, FINE, FINE), np.uint8)
    for k in range(SHARD):
        seed = index * SHARD + k
        rng = np.random.default_rng([seed, 1])
        kind = KINDS[int(rng.choice(len(KINDS), p=fare.shares))]
        drawn, truth = case(seed, looks, kind, fare.frames, float(rng.choice(fare.rates))).draw()
        frames[k] = _resized(torch.from_numpy(drawn).movedim(-1, 1), SIZE).movedim(1, -1).numpy()
        masks[k, : len(truth)] = _resized(torch.from_numpy(truth) * 255, FINE).numpy()
    partial = path.with_name(f".{path.name}.part.npz")
    np.savez(partial, allow_pickle=False, frames=frames, masks=masks)
    partial.replace(path)


def _resized(pictures: Tensor, side: int) -> Tensor:
    """Pictures (N, C, H, W) as a square, in whole numbers 0..255."""
    small = functional.interpolate(pictures.float(), size=(side, side), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Cases:
    """Drawn cases: frames (N, F, SIZE, SIZE, 3) and masks (N, MOST, F, FINE, FINE), uint8."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Cases:
        """Join files that `draw_shard` wrote."""
        parts = [np.load(path) for path in paths]
        return cls(*(np.concatenate([part[key] for part in parts]) for key in ("frames", "masks")))


@dataclass(frozen=True)
class Batch:
    """Objects to follow.

    Attributes:
        pixels: (frames, 3, SIZE, SIZE), as the model takes them.
        rows: (N, T), which of the frames are those of each object.
        masks: (N, T, FINE, FINE), 0..1.
        asked: The prompts in the first frames.
        everybody: (frames, MOST, FINE, FINE), 0..1: all creatures of each frame.
    """

    pixels: Tensor
    rows: Tensor
    masks: Tensor
    asked: Asked
    everybody: Tensor

    @property
    def present(self) -> Tensor:
        """(N, T): whether there is anything to see of an object."""
        return self.masks.sum((2, 3)) > 1.0

    def held(self, length: int) -> Batch:
        """The first frames shown `length` times over: nothing moves."""
        rows, masks = self.rows[:, :1], self.masks[:, :1]
        return replace(self, rows=rows.repeat(1, length), masks=masks.repeat(1, length, 1, 1))


def batch(cases: Cases, clips: int, length: int, g: torch.Generator, prompts: int = 1) -> Batch:
    """Two objects each of `clips` random cases through `length` of their frames, each seen in the first.

    Every object is there `prompts` times, with another prompt each time.

    Clips are mirrored, run backwards, skip frames and change their colours at random.
    """

    def whole(high: int) -> int:
        return int(torch.randint(high, (1,), generator=g))

    most = cases.frames.shape[1]
    pixels: list[Tensor] = []
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    everybody: list[Tensor] = []
    while len(pixels) < clips:
        pick = whole(len(cases.frames))
        step = 1 + whole(min(FARTHEST, (most - 1) // max(1, length - 1)))
        first = whole(most - (length - 1) * step)
        times = [first + k * step for k in range(length)][:: -1 if whole(2) else 1]
        truth = torch.from_numpy(cases.masks[pick][:, times]).float() / 255
        seen = (truth[:, 0].sum((1, 2)) > SEEN).nonzero()[:, 0]
        if not len(seen):
            continue
        seen = seen[torch.randperm(len(seen), generator=g)[:2]]
        frames = torch.from_numpy(cases.frames[pick][times]).movedim(-1, 1).float() / 255
        if whole(2):
            frames, truth = frames.flip(-1), truth.flip(-1)
        rows += [torch.arange(length) + len(pixels) * length] * len(seen)
        masks.append(truth[seen])
        everybody.append(truth.transpose(0, 1))
        pixels.append(_recoloured(frames, g))
    truth = torch.cat(masks * prompts)
    kind = PROMPTS[int(torch.multinomial(torch.tensor([0.6, 0.25, 0.15]), 1, generator=g))]
    return Batch(
        torch.cat(pixels), torch.stack(rows * prompts), truth, ask(truth[:, 0], kind, g), torch.cat(everybody)
    )


def _recoloured(frames: Tensor, g: torch.Generator) -> Tensor:
    """Frames (T, 3, H, W) in 0..1 with other colours and a little noise, as the model takes them."""
    if torch.rand(1, generator=g) < 0.4:
        frames = frames[:, torch.randperm(3, generator=g)]
    gain = 1 + 0.15 * torch.randn(3, 1, 1, generator=g)
    frames = frames * gain + 0.05 * torch.randn(1, generator=g)
    frames = frames + 0.03 * torch.rand(1, generator=g) * torch.randn(frames.shape, generator=g)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (frames.clamp(0, 1) - mean) / std


def ask(masks: Tensor, kind: str, g: torch.Generator) -> Asked:
    """A prompt for each mask (N, FINE, FINE): its "box", a bit off, one "click" on it, or three "clicks"."""
    scale, count = SIZE / FINE, len(masks)
    if kind == "box":
        inside = masks > 0.5 * masks.amax((1, 2), keepdim=True)
        corners = []
        for mask in inside:
            ys, xs = mask.any(1).nonzero(), mask.any(0).nonzero()
            corners.append([float(e) for e in (xs[0, 0], ys[0, 0], xs[-1, 0] + 1, ys[-1, 0] + 1)])
        edges = torch.tensor(corners)
        side = torch.cat([edges[:, 2:] - edges[:, :2]] * 2, 1)
        off = (0.05 * side).clamp(0.3) * torch.randn(edges.shape, generator=g)
        points = ((edges + off) * scale).clamp(0, SIZE).view(count, 2, 2)
        return Asked(points, torch.tensor([[2, 3]], dtype=torch.int32).repeat(count, 1))
    number = 1 if kind == "click" else 3
    cells = torch.multinomial(masks.flatten(1).square(), number, replacement=True, generator=g)
    spots = torch.stack([cells % FINE, cells // FINE], -1) + torch.rand(count, number, 2, generator=g)
    return Asked(spots * scale, torch.ones(count, number, dtype=torch.int32))


@dataclass(frozen=True)
class Wrong:
    """How wrong a batch of masks is: the `loss`, and the mean IoU of `prompted` and of `tracked` frames."""

    loss: Tensor
    prompted: float
    tracked: float


def wrong(drawn: Sequence[Drawn], these: Batch) -> Wrong:
    """SAM's losses: 20 focal + dice of the best mask, its expected IoU, and being there at all.

    Of several masks the best one learns; of all, the expected IoU does.
    """
    total, scores = torch.zeros(()), []
    present = these.present
    for t, out in enumerate(drawn):
        there, truth = present[:, t], these.masks[:, t, None]
        focal, dice, iou = mask_errors(out.logits.float(), truth)
        cost = 20 * focal + dice
        best = cost.argmin(1)
        each = torch.arange(len(best))
        quality = (out.quality.float() - iou).square().mean(1)
        seen = there.float()
        total = total + ((cost[each, best] + quality) * seen).sum() / seen.sum().clamp(min=1)
        total = total + functional.binary_cross_entropy_with_logits(out.presence[:, 0].float(), seen)
        scores.append(float((iou[each, best] * seen).sum() / seen.sum().clamp(min=1)))
    rest = scores[1:]
    return Wrong(total / len(drawn), scores[0], sum(rest) / len(rest) if rest else float("nan"))


def scout_error(said: Tensor, everybody: Tensor) -> Tensor:
    """How wrong a `Scout` is about creatures (frames, MOST, FINE, FINE): cross entropy, and distance."""
    steps = (torch.arange(FINE) + 0.5) / FINE
    inside, area = everybody > 0.5, everybody.sum((2, 3)).clamp(min=1)[..., None, None]
    x, y = steps.view(1, 1, 1, FINE), steps.view(1, 1, FINE, 1)
    to_x = (((everybody * x).sum((2, 3), keepdim=True) / area - x) * inside).sum(1)
    to_y = (((everybody * y).sum((2, 3), keepdim=True) / area - y) * inside).sum(1)
    there = everybody.sum(1).clamp(max=1)
    miss = (said[:, 1] - 10 * to_x).abs() + (said[:, 2] - 10 * to_y).abs()
    which = functional.binary_cross_entropy_with_logits(said[:, 0], there)
    return which + 0.3 * (miss * inside.any(1)).sum() / inside.any(1).sum().clamp(min=1)


def mask_errors(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss, dice loss and IoU (N, M) of masks with logits (N, M, h, w) against the truth (N, 1, h, w).

    The truth may lie between 0 and 1: an edge that runs through a cell.
    """
    truth = truth.expand_as(logits)
    belief = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = ((belief - truth).square() * entropy).mean((2, 3))
    both = (belief * truth).sum((2, 3))
    dice = 1 - (2 * both + 1) / (belief.sum((2, 3)) + truth.sum((2, 3)) + 1)
    with torch.no_grad():
        drawn, real = logits > 0, truth > 0.5
        union = (drawn | real).sum((2, 3))
        iou = (drawn & real).sum((2, 3)) / union.clamp(min=1)
    return focal, dice, iou
