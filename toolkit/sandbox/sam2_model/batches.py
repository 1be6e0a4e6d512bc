"""Training data and losses of the sandbox's SAM 2: drawn cases on disk, batches of objects, mask losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from toolkit.sandbox.sam2_model.examples import KIND_SHARES, KINDS, sample_case
from toolkit.sandbox.sam2_model.network import IMAGE_SIZE, MASK_SIZE
from toolkit.sandbox.sam2_model.rollout import MaskOutput, PointPrompts
from toolkit.sandbox.world import world
from toolkit.segmentation.sam2 import IMAGENET

SHARD, MAX_CREATURES = 100, 3  # cases per file, creatures per case
MAX_FRAME_STEP = 3  # largest step between consecutive frames of a batch
MIN_CELLS = 6.0  # smallest mask area of a prompted creature, in mask pixels
PROMPT_KINDS = ("box", "click", "clicks")


@dataclass(frozen=True)
class CaseSettings:
    """Settings of sampled cases: frames per case, shares of the kinds, and frame rates to choose from."""

    frames: int
    shares: tuple[float, ...]
    rates: tuple[float, ...]


SHORT = CaseSettings(8, KIND_SHARES, (6.0, 8.0, 8.0, 12.0, 16.0))
SLOW = CaseSettings(16, (0.05, 0.1, 0.4, 0.3, 0.15), (6.0, 8.0, 8.0, 10.0))
"""Mostly crossings, with occlusions as long as in clips of 24 frames."""


def draw_shard(path: Path, index: int, looks: Sequence[world.Look], settings: CaseSettings = SHORT) -> None:
    """Draw `SHARD` cases into an npz file.

    The file holds frames (N, F, IMAGE_SIZE, IMAGE_SIZE, 3) and masks (N, MAX_CREATURES, F, MASK_SIZE,
    MASK_SIZE), both uint8. A mask value is the coverage of the pixel, 0 to 255.
    """
    frames = np.zeros((SHARD, settings.frames, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    masks = np.zeros((SHARD, MAX_CREATURES, settings.frames, MASK_SIZE, MASK_SIZE), np.uint8)
    for k in range(SHARD):
        seed = index * SHARD + k
        rng = np.random.default_rng([seed, 1])
        kind = KINDS[int(rng.choice(len(KINDS), p=settings.shares))]
        drawn, truth = sample_case(
            seed, looks, kind, settings.frames, float(rng.choice(settings.rates))
        ).draw()
        frames[k] = _resized(torch.from_numpy(drawn).movedim(-1, 1), IMAGE_SIZE).movedim(1, -1).numpy()
        masks[k, : len(truth)] = _resized(torch.from_numpy(truth) * 255, MASK_SIZE).numpy()
    partial = path.with_name(f".{path.name}.part.npz")
    np.savez(partial, allow_pickle=False, frames=frames, masks=masks)
    partial.replace(path)


def _resized(pictures: Tensor, side: int) -> Tensor:
    """Resize images (N, C, H, W) to squares of this side, uint8."""
    small = functional.interpolate(pictures.float(), size=(side, side), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Cases:
    """Drawn cases, in the layout of `draw_shard`."""

    frames: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Cases:
        """Read and concatenate files written by `draw_shard`."""
        parts = [np.load(path) for path in paths]
        return cls(*(np.concatenate([part[key] for part in parts]) for key in ("frames", "masks")))


@dataclass(frozen=True)
class Batch:
    """A batch of N objects to track through T frames.

    Attributes:
        pixels: Normalised frames, (frames, 3, IMAGE_SIZE, IMAGE_SIZE).
        rows: Indices of each object's frames, (N, T).
        masks: True masks in [0, 1], (N, T, MASK_SIZE, MASK_SIZE).
        prompts: Prompts in the first frame of each object.
        all_masks: True masks of all creatures of each frame, (frames, MAX_CREATURES, MASK_SIZE, MASK_SIZE).
    """

    pixels: Tensor
    rows: Tensor
    masks: Tensor
    prompts: PointPrompts
    all_masks: Tensor

    @property
    def present(self) -> Tensor:
        """Whether an object is visible, (N, T)."""
        return self.masks.sum((2, 3)) > 1.0

    def repeat_first(self, length: int) -> Batch:
        """Return a batch that repeats the first frame of each object `length` times."""
        rows, masks = self.rows[:, :1], self.masks[:, :1]
        return replace(self, rows=rows.repeat(1, length), masks=masks.repeat(1, length, 1, 1))


def sample_batch(cases: Cases, clips: int, length: int, g: torch.Generator, prompts: int = 1) -> Batch:
    """Sample a batch: up to two objects of each of `clips` random cases, visible in the first frame.

    Augmentations are mirroring, reversed time, skipped frames and changed colours. Every object occurs
    `prompts` times, with a different prompt each time.
    """

    def whole(high: int) -> int:
        return int(torch.randint(high, (1,), generator=g))

    most = cases.frames.shape[1]
    pixels: list[Tensor] = []
    rows: list[Tensor] = []
    masks: list[Tensor] = []
    all_masks: list[Tensor] = []
    while len(pixels) < clips:
        pick = whole(len(cases.frames))
        step = 1 + whole(min(MAX_FRAME_STEP, (most - 1) // max(1, length - 1)))
        first = whole(most - (length - 1) * step)
        times = [first + k * step for k in range(length)][:: -1 if whole(2) else 1]
        truth = torch.from_numpy(cases.masks[pick][:, times]).float() / 255
        seen = (truth[:, 0].sum((1, 2)) > MIN_CELLS).nonzero()[:, 0]
        if not len(seen):
            continue
        seen = seen[torch.randperm(len(seen), generator=g)[:2]]
        frames = torch.from_numpy(cases.frames[pick][times]).movedim(-1, 1).float() / 255
        if whole(2):
            frames, truth = frames.flip(-1), truth.flip(-1)
        rows += [torch.arange(length) + len(pixels) * length] * len(seen)
        masks.append(truth[seen])
        all_masks.append(truth.transpose(0, 1))
        pixels.append(_augment_colours(frames, g))
    truth = torch.cat(masks * prompts)
    kind = PROMPT_KINDS[int(torch.multinomial(torch.tensor([0.6, 0.25, 0.15]), 1, generator=g))]
    return Batch(
        torch.cat(pixels),
        torch.stack(rows * prompts),
        truth,
        sample_prompts(truth[:, 0], kind, g),
        torch.cat(all_masks),
    )


def _augment_colours(frames: Tensor, g: torch.Generator) -> Tensor:
    """Change the colours of frames (T, 3, H, W) in [0, 1], add noise, and normalise for the model."""
    if torch.rand(1, generator=g) < 0.4:
        frames = frames[:, torch.randperm(3, generator=g)]
    gain = 1 + 0.15 * torch.randn(3, 1, 1, generator=g)
    frames = frames * gain + 0.05 * torch.randn(1, generator=g)
    frames = frames + 0.03 * torch.rand(1, generator=g) * torch.randn(frames.shape, generator=g)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (frames.clamp(0, 1) - mean) / std


def sample_prompts(masks: Tensor, kind: str, g: torch.Generator) -> PointPrompts:
    """Sample a prompt for each mask (N, MASK_SIZE, MASK_SIZE).

    kind: "box" (the bounding box with small errors), "click" (one point on the mask) or "clicks" (three
    points).
    """
    scale, count = IMAGE_SIZE / MASK_SIZE, len(masks)
    if kind == "box":
        inside = masks > 0.5 * masks.amax((1, 2), keepdim=True)
        corners = []
        for mask in inside:
            ys, xs = mask.any(1).nonzero(), mask.any(0).nonzero()
            corners.append([float(e) for e in (xs[0, 0], ys[0, 0], xs[-1, 0] + 1, ys[-1, 0] + 1)])
        edges = torch.tensor(corners)
        side = torch.cat([edges[:, 2:] - edges[:, :2]] * 2, 1)
        off = (0.05 * side).clamp(0.3) * torch.randn(edges.shape, generator=g)
        points = ((edges + off) * scale).clamp(0, IMAGE_SIZE).view(count, 2, 2)
        return PointPrompts(points, torch.tensor([[2, 3]], dtype=torch.int32).repeat(count, 1))
    number = 1 if kind == "click" else 3
    cells = torch.multinomial(masks.flatten(1).square(), number, replacement=True, generator=g)
    spots = torch.stack([cells % MASK_SIZE, cells // MASK_SIZE], -1) + torch.rand(
        count, number, 2, generator=g
    )
    return PointPrompts(spots * scale, torch.ones(count, number, dtype=torch.int32))


@dataclass(frozen=True)
class StepLoss:
    """The loss of a batch, and the mean IoU of prompted frames and of tracked (all later) frames."""

    loss: Tensor
    prompted: float
    tracked: float


def mask_loss(outputs: Sequence[MaskOutput], these: Batch) -> StepLoss:
    """Compute SAM's losses: 20 * focal + dice, the error of the predicted IoU, and presence.

    Focal and dice loss apply to the best candidate mask only, the IoU error to all candidates.
    """
    total, scores = torch.zeros(()), []
    present = these.present
    for t, out in enumerate(outputs):
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
    return StepLoss(total / len(outputs), scores[0], sum(rest) / len(rest) if rest else float("nan"))


def auxiliary_loss(predicted: Tensor, all_masks: Tensor) -> Tensor:
    """Loss of the `AuxiliaryHead`: cross entropy of the mask, and L1 distance of the centre offsets.

    all_masks: (frames, MAX_CREATURES, MASK_SIZE, MASK_SIZE).
    """
    steps = (torch.arange(MASK_SIZE) + 0.5) / MASK_SIZE
    inside, area = all_masks > 0.5, all_masks.sum((2, 3)).clamp(min=1)[..., None, None]
    x, y = steps.view(1, 1, 1, MASK_SIZE), steps.view(1, 1, MASK_SIZE, 1)
    to_x = (((all_masks * x).sum((2, 3), keepdim=True) / area - x) * inside).sum(1)
    to_y = (((all_masks * y).sum((2, 3), keepdim=True) / area - y) * inside).sum(1)
    there = all_masks.sum(1).clamp(max=1)
    miss = (predicted[:, 1] - 10 * to_x).abs() + (predicted[:, 2] - 10 * to_y).abs()
    which = functional.binary_cross_entropy_with_logits(predicted[:, 0], there)
    return which + 0.3 * (miss * inside.any(1)).sum() / inside.any(1).sum().clamp(min=1)


def mask_errors(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return focal loss, dice loss and IoU, (N, M) each.

    logits: (N, M, h, w). truth: true masks in [0, 1], (N, 1, h, w).
    """
    truth = truth.expand_as(logits)
    belief = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focal = ((belief - truth).square() * entropy).mean((2, 3))
    both = (belief * truth).sum((2, 3))
    dice = 1 - (2 * both + 1) / (belief.sum((2, 3)) + truth.sum((2, 3)) + 1)
    with torch.no_grad():
        predicted, real = logits > 0, truth > 0.5
        union = (predicted | real).sum((2, 3))
        iou = (predicted & real).sum((2, 3)) / union.clamp(min=1)
    return focal, dice, iou
