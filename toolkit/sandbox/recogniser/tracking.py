"""Detects creatures in every frame, tracks them through a clip, crops them and computes position features.

Every pixel of a creature votes for the creature's centre (the centre offsets of Panoptic-DeepLab, arXiv
1911.10194). Peaks of the votes are creatures. Detections of consecutive frames are linked by position and
colour. Camera motion is estimated on the background and removed from positions, so that a pan is not taken
for walking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit.sandbox.recogniser.networks import CROP_SIZE, GEOMETRY_SIZE, OFFSET_SCALE, CreatureDetector

MAX_CREATURES = 5  # per frame
VOTE_CELL = 2  # side of the cells in which votes are counted, in pixels
MIN_VOTES = 30.0  # smallest number of votes of a creature
MAX_VOTE_ERROR = 16.0  # largest distance of a vote from its creature's centre, in pixels
MIN_FRAMES, MIN_AREA = 3, 300.0  # smallest number of frames, and of pixels over all frames, of a creature


@dataclass(frozen=True)
class Detections:
    """The creatures in each of B frames, at most MAX_CREATURES per frame, unordered.

    Attributes:
        label: Index of the creature that a pixel belongs to, -1 for none, (B, H, W).
        area: Area in pixels, 0 for unused indices, (B, MAX_CREATURES).
        centre: Mean position (x, y) in pixels, (B, MAX_CREATURES, 2).
        colour: Mean colour in [-1, 1], (B, MAX_CREATURES, 3).
    """

    label: Tensor
    area: Tensor
    centre: Tensor
    colour: Tensor


@dataclass(frozen=True)
class Track:
    """A creature tracked through a clip: masks (F, H, W) bool, and area (F,) in pixels, 0 where not seen."""

    masks: Tensor
    area: Tensor


def pixel_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates of pixel centres: x (1, W) and y (H, 1)."""
    return torch.arange(width)[None] + 0.5, torch.arange(height)[:, None] + 0.5


def _vote_peaks(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the peaks of votes (B, H, W): centres (B, MAX_CREATURES, 2) and counts (B, MAX_CREATURES)."""
    b, h, w = weight.shape
    rows, columns = h // VOTE_CELL, w // VOTE_CELL
    row = (y / VOTE_CELL).long().clamp(0, rows - 1)
    column = (x / VOTE_CELL).long().clamp(0, columns - 1)
    grid = torch.zeros(b, rows * columns).scatter_add_(
        1, (row * columns + column).flatten(1), weight.flatten(1)
    )
    bell = torch.tensor([0.3, 0.75, 1.0, 0.75, 0.3])
    near = functional.conv2d(grid.view(b, 1, rows, columns), (bell[:, None] * bell)[None, None], padding=2)
    peaks = torch.where(near == functional.max_pool2d(near, 7, 1, 3), near, 0.0)
    count, where = peaks.flatten(1).topk(MAX_CREATURES)
    centre = torch.stack([where % columns, where // columns], -1) * VOTE_CELL + VOTE_CELL / 2
    return centre, count


def detect(finder: CreatureDetector, frames: Tensor) -> Detections:
    """Detect creatures in frames (B, 3, H, W) in [-1, 1]."""
    out = finder(frames.contiguous(memory_format=torch.channels_last)).float()
    x, y = pixel_centres(*frames.shape[2:])
    here = out[:, 0] > 0
    vote_x, vote_y = x + OFFSET_SCALE * out[:, 1], y + OFFSET_SCALE * out[:, 2]
    centre, count = _vote_peaks(vote_x, vote_y, here.float())
    gap = (vote_x[:, None] - centre[..., 0, None, None]) ** 2 + (
        vote_y[:, None] - centre[..., 1, None, None]
    ) ** 2
    gap = gap.masked_fill((count < MIN_VOTES)[..., None, None], torch.inf)
    nearest = gap.min(1)
    label = nearest.indices.masked_fill(~here | (nearest.values > MAX_VOTE_ERROR**2), -1)
    sums = torch.stack([torch.ones_like(here), x.expand_as(here), y.expand_as(here), *frames.unbind(1)], 1)
    each = torch.zeros(len(frames), 6, MAX_CREATURES + 1)
    each = each.scatter_add_(2, (label + 1).flatten(1)[:, None].expand(-1, 6, -1), sums.flatten(2))[..., 1:]
    mean = (each / each[:, :1].clamp(min=1)).transpose(1, 2)
    return Detections(label, each[:, 0], mean[..., 1:3], mean[..., 3:])


def _link_detections(found: Detections) -> list[list[int]]:
    """Link the detections of one clip's frames: for each track, its index in every frame, -1 if not seen."""
    area, centre, colour = found.area.numpy(), found.centre.numpy() / 24, found.colour.numpy() * 3
    tracks: list[list[int]] = []
    for f in range(len(area)):
        there = [k for k in range(MAX_CREATURES) if area[f, k] > 0]
        pairs = []
        for t, track in enumerate(tracks):
            last = max(g for g in range(f) if track[g] >= 0)
            for k in there:
                away = np.hypot(*(centre[f, k] - centre[last, track[last]]))
                tint = np.abs(colour[f, k] - colour[last, track[last]]).mean()
                pairs.append((float(away + tint) + 0.03 * (f - last), t, k))
        taken: set[int] = set()
        for cost, t, k in sorted(pairs):
            if cost < 1.6 and len(tracks[t]) == f and k not in taken:
                tracks[t].append(k)
                taken.add(k)
        tracks = [[*track, -1] if len(track) == f else track for track in tracks]
        tracks += [[-1] * f + [k] for k in there if k not in taken]
    return tracks


def _merge_tracks(tracks: list[Track], frames: Tensor) -> list[Track]:
    """Merge tracks of equal colour that share at most two frames: one creature, occluded for a while."""
    tints = [(t.masks[:, None] * frames).sum((0, 2, 3)) / t.area.sum() for t in tracks]
    for i in range(len(tracks)):
        for j in range(i + 1, len(tracks)):
            a, b = tracks[i], tracks[j]
            apart = int(((a.area > 0) & (b.area > 0)).sum()) <= 2
            if apart and float((tints[i] - tints[j]).abs().mean()) < 0.2:
                joined = Track(a.masks | b.masks, a.area + b.area)
                return _merge_tracks([joined, *(t for k, t in enumerate(tracks) if k not in (i, j))], frames)
    return tracks


def track_creatures(finder: CreatureDetector, clips: Tensor) -> list[list[Track]]:
    """Track the creatures of clips (N, F, 3, H, W) in [-1, 1].

    Returns:
        For each clip, its tracks from left to right in the frame where each is first seen.
    """
    everything = detect(finder, clips.flatten(0, 1))
    n, f = clips.shape[:2]
    result = []
    for i in range(n):
        part = slice(i * f, (i + 1) * f)
        fields = (everything.label, everything.area, everything.centre, everything.colour)
        found = Detections(*(field[part] for field in fields))
        tracks = []
        for link in _link_detections(found):
            index = torch.tensor(link)
            masks = (found.label == index[:, None, None]) & (index >= 0)[:, None, None]
            tracks.append(Track(masks, masks.sum((1, 2)).float()))
        tracks = [t for t in _merge_tracks(tracks, clips[i]) if t.area.sum() >= MIN_AREA]
        tracks = [t for t in tracks if int((t.area > 0).sum()) >= min(MIN_FRAMES, f)]
        result.append(sorted(tracks, key=lambda t: float(_start(t))))
    return result


def _start(track: Track) -> Tensor:
    """Return the mean x of a creature in the first frame that shows it."""
    columns = track.masks[int((track.area > 0).float().argmax())].float().sum(0)
    return (columns * torch.arange(len(columns))).sum() / columns.sum()


def mask_boxes(masks: Tensor) -> Tensor:
    """Return left, top, right and bottom (F, 4) of masks (F, H, W), nan where they are empty."""
    rows, columns = masks.any(2).float(), masks.any(1).float()
    h, w = masks.shape[1:]
    box = torch.stack(
        [columns.argmax(1), rows.argmax(1), w - columns.flip(1).argmax(1), h - rows.flip(1).argmax(1)], 1
    ).float()
    return box.masked_fill(~masks.flatten(1).any(1)[:, None], torch.nan)


def crop_track(frames: Tensor, track: Track) -> Tensor:
    """Crop a track's creature from frames (F, 3, H, W): (F, 4, CROP_SIZE, CROP_SIZE).

    The last channel is the mask. Pixels outside the mask are 0 (grey).
    """
    f, _, h, w = frames.shape
    box = mask_boxes(track.masks).nan_to_num(0)
    side = (box[:, 2:] - box[:, :2]).amax(1).clamp(min=4) * 1.1
    middle = (box[:, 2:] + box[:, :2]) / 2
    theta = torch.zeros(f, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / w, side / h
    theta[:, 0, 2], theta[:, 1, 2] = 2 * middle[:, 0] / w - 1, 2 * middle[:, 1] / h - 1
    cut = torch.cat([frames * track.masks[:, None], track.masks[:, None].float()], 1)
    grid = functional.affine_grid(theta, [f, 4, CROP_SIZE, CROP_SIZE], align_corners=False)
    return functional.grid_sample(cut, grid, align_corners=False)


def estimate_camera(clips: Tensor, empty: Tensor) -> Tensor:
    """Estimate the background's motion per frame, (N, 3): right and down in pixels, and zoom factor - 1.

    The motion is assumed constant over the clip. It is the least-squares solution of brightness constancy
    over all pairs of consecutive frames (Lucas and Kanade, 1981).

    Args:
        clips: Frames, (N, F, 3, H, W).
        empty: True where no creature is, (N, F, H, W).
    """
    scale = 2
    free = functional.avg_pool2d(empty.float(), scale)
    grey = functional.avg_pool2d(clips.mean(2) * empty, scale)
    for _ in range(4):  # image gradients need a smooth image
        grey, free = functional.avg_pool2d(grey, 3, 1, 1), functional.avg_pool2d(free, 3, 1, 1)
    grey = grey / free.clamp(min=0.02)  # normalised blur without the creatures' pixels
    middle = (grey[:, 1:] + grey[:, :-1]) / 2
    change = (grey[:, 1:] - grey[:, :-1])[..., 1:-1, 1:-1]
    right = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    down = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    weight = (free[:, 1:] * free[:, :-1])[..., 1:-1, 1:-1]
    h, w = right.shape[2:]
    x, y = torch.arange(w) - (w - 1) / 2, torch.arange(h)[:, None] - (h - 1) / 2
    slopes = torch.stack([right, down, right * x + down * y], -1).flatten(1, 3)
    change, weight = change.flatten(1), weight.flatten(1)[..., None]
    normal = torch.einsum("npi,npj->nij", slopes * weight, slopes) + 1e-2 * torch.diag(
        torch.tensor([1.0, 1, 16])
    )
    answer: Tensor = torch.linalg.solve(normal, -torch.einsum("npi,np->ni", slopes * weight, change))
    return answer * torch.tensor([scale, scale, 1.0])


def _stabilised_measures(track: Track, move: Tensor) -> Tensor:
    """Return position and size of a creature per frame, (F, 7), in picture heights, without camera motion.

    The values are: mean x, mean y; left, top, right, bottom of its box; square root of its area. Frames where
    it is not seen repeat the last values.
    """
    f, h, w = track.masks.shape
    x, y = pixel_centres(h, w)
    weight = track.masks / track.area.clamp(min=1)[:, None, None]
    raw = torch.cat(
        [(weight * x).sum((1, 2))[:, None], (weight * y).sum((1, 2))[:, None], mask_boxes(track.masks)], 1
    )
    t = torch.arange(f) - (f - 1) / 2
    zoom = torch.exp(move[2] * t)[:, None]
    axis = torch.tensor([w / 2, h / 2]).repeat(3)
    steady = (raw - axis - (t[:, None] * move[:2]).repeat(1, 3)) / zoom + axis
    steady = torch.cat([steady, track.area.sqrt()[:, None] / zoom], 1) / h
    seen = (track.area > 0).nonzero()[:, 0]
    held = seen[torch.searchsorted(seen, torch.arange(f), right=True).sub(1).clamp(min=0)]
    return steady[held]


def geometry_features(tracks: list[Track], move: Tensor) -> Tensor:
    """Return position features of a clip's tracks, (T, F, GEOMETRY_SIZE).

    They are: position and size, their deviation from the mean over time, speed, size of the box, relative
    position of the nearest creature on the left and on the right, visibility, and camera motion.
    """
    if not tracks:
        return torch.zeros(0, 0, GEOMETRY_SIZE)
    all_places = torch.stack([_stabilised_measures(t, move) for t in tracks])
    rows = []
    for i, track in enumerate(tracks):
        own = all_places[i]
        rest = own - own.mean(0)
        speed = torch.cat([torch.zeros(1, 2), own[1:, :2] - own[:-1, :2]])
        others = []
        for side in (-1, 1):
            apart = [(float((p - own)[:, 0].mean()) * side, k) for k, p in enumerate(all_places) if k != i]
            beside = [k for gap, k in sorted(apart) if gap > 0]
            near = all_places[beside[0]][:, :2] - own[:, :2] if beside else torch.zeros(len(own), 2)
            others.append(torch.cat([near, torch.full((len(own), 1), float(bool(beside)))], 1))
        seen = (track.area > 0).float()[:, None]
        steady = torch.cat([move[:2] / 2, move[2:] * 50]).expand(len(own), 3) * 0.2
        parts = [own[:, :2] - 0.6, own[:, 6:], 4 * rest[:, :6], 8 * speed, 4 * rest[:, 6:]]
        size = torch.stack([own[:, 4] - own[:, 2], own[:, 5] - own[:, 3]], 1)
        rows.append(torch.cat([*parts, size, *others, seen, steady], 1))
    return torch.stack(rows)
