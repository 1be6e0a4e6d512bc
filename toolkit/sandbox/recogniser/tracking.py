"""From pixels to creatures: found in every frame, followed through a clip, cut out, and measured.

Every pixel of a creature votes for its creature's middle (the offsets of Panoptic-DeepLab, arXiv 1911.10194);
where votes gather, there is one. Creatures of consecutive frames are linked by place and colour, and what the
camera does is measured on the background, so that a pan is not taken for a walk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolkit.sandbox.recogniser.networks import CROP, GEOMETRY, OFFSET, Finder

MOST = 5  # creatures in one frame
CELL = 2  # pixels along a cell in which votes are counted
ENOUGH = 30.0  # votes that make a creature
FAR = 16.0  # pixels by which a vote may miss
SEEN_FRAMES, SEEN_AREA = 3, 300.0  # less than this in a whole clip is no creature


@dataclass(frozen=True)
class Found:
    """What stands in each of B frames, at most `MOST` creatures, in no order.

    label (B, H, W): which one a pixel belongs to, -1 if none; area (B, MOST) in pixels, 0 where there is
    none; centre (B, MOST, 2); colour (B, MOST, 3) its mean in -1..1.
    """

    label: Tensor
    area: Tensor
    centre: Tensor
    colour: Tensor


@dataclass(frozen=True)
class Track:
    """One creature followed through a clip: masks (F, H, W) bool and area (F,) in pixels, 0 where unseen."""

    masks: Tensor
    area: Tensor


def pixels(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The x (1, W) and y (H, 1) of every pixel's middle."""
    return torch.arange(width)[None] + 0.5, torch.arange(height)[:, None] + 0.5


def _votes(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Where votes (B, H, W) gather: centres (B, MOST, 2), and how many there are (B, MOST)."""
    b, h, w = weight.shape
    rows, columns = h // CELL, w // CELL
    row = (y / CELL).long().clamp(0, rows - 1)
    column = (x / CELL).long().clamp(0, columns - 1)
    grid = torch.zeros(b, rows * columns).scatter_add_(
        1, (row * columns + column).flatten(1), weight.flatten(1)
    )
    bell = torch.tensor([0.3, 0.75, 1.0, 0.75, 0.3])
    near = functional.conv2d(grid.view(b, 1, rows, columns), (bell[:, None] * bell)[None, None], padding=2)
    peaks = torch.where(near == functional.max_pool2d(near, 7, 1, 3), near, 0.0)
    count, where = peaks.flatten(1).topk(MOST)
    centre = torch.stack([where % columns, where // columns], -1) * CELL + CELL / 2
    return centre, count


def find(finder: Finder, frames: Tensor) -> Found:
    """Find creatures in frames (B, 3, H, W) in -1..1."""
    out = finder(frames.contiguous(memory_format=torch.channels_last)).float()
    x, y = pixels(*frames.shape[2:])
    here = out[:, 0] > 0
    vote_x, vote_y = x + OFFSET * out[:, 1], y + OFFSET * out[:, 2]
    centre, count = _votes(vote_x, vote_y, here.float())
    gap = (vote_x[:, None] - centre[..., 0, None, None]) ** 2 + (
        vote_y[:, None] - centre[..., 1, None, None]
    ) ** 2
    gap = gap.masked_fill((count < ENOUGH)[..., None, None], torch.inf)
    nearest = gap.min(1)
    label = nearest.indices.masked_fill(~here | (nearest.values > FAR**2), -1)
    sums = torch.stack([torch.ones_like(here), x.expand_as(here), y.expand_as(here), *frames.unbind(1)], 1)
    each = torch.zeros(len(frames), 6, MOST + 1)
    each = each.scatter_add_(2, (label + 1).flatten(1)[:, None].expand(-1, 6, -1), sums.flatten(2))[..., 1:]
    mean = (each / each[:, :1].clamp(min=1)).transpose(1, 2)
    return Found(label, each[:, 0], mean[..., 1:3], mean[..., 3:])


def _link(found: Found) -> list[list[int]]:
    """Follow the creatures of one clip's frames: for each, its index in every frame, -1 where unseen."""
    area, centre, colour = found.area.numpy(), found.centre.numpy() / 24, found.colour.numpy() * 3
    tracks: list[list[int]] = []
    for f in range(len(area)):
        there = [k for k in range(MOST) if area[f, k] > 0]
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


def _merge(tracks: list[Track], frames: Tensor) -> list[Track]:
    """Join tracks that are hardly ever seen together and look the same: one creature that had been hidden."""
    tints = [(t.masks[:, None] * frames).sum((0, 2, 3)) / t.area.sum() for t in tracks]
    for i in range(len(tracks)):
        for j in range(i + 1, len(tracks)):
            a, b = tracks[i], tracks[j]
            apart = int(((a.area > 0) & (b.area > 0)).sum()) <= 2
            if apart and float((tints[i] - tints[j]).abs().mean()) < 0.2:
                joined = Track(a.masks | b.masks, a.area + b.area)
                return _merge([joined, *(t for k, t in enumerate(tracks) if k not in (i, j))], frames)
    return tracks


def follow(finder: Finder, clips: Tensor) -> list[list[Track]]:
    """Follow every creature through clips (N, F, 3, H, W) in -1..1; from the left, by where each begins."""
    everything = find(finder, clips.flatten(0, 1))
    n, f = clips.shape[:2]
    result = []
    for i in range(n):
        part = slice(i * f, (i + 1) * f)
        fields = (everything.label, everything.area, everything.centre, everything.colour)
        found = Found(*(field[part] for field in fields))
        tracks = []
        for link in _link(found):
            index = torch.tensor(link)
            masks = (found.label == index[:, None, None]) & (index >= 0)[:, None, None]
            tracks.append(Track(masks, masks.sum((1, 2)).float()))
        tracks = [t for t in _merge(tracks, clips[i]) if t.area.sum() >= SEEN_AREA]
        tracks = [t for t in tracks if int((t.area > 0).sum()) >= min(SEEN_FRAMES, f)]
        result.append(sorted(tracks, key=lambda t: float(_start(t))))
    return result


def _start(track: Track) -> Tensor:
    """The mean x of a creature where it is first seen."""
    columns = track.masks[int((track.area > 0).float().argmax())].float().sum(0)
    return (columns * torch.arange(len(columns))).sum() / columns.sum()


def boxes(masks: Tensor) -> Tensor:
    """Left, top, right and bottom (F, 4) of masks (F, H, W), nan where they are empty."""
    rows, columns = masks.any(2).float(), masks.any(1).float()
    h, w = masks.shape[1:]
    box = torch.stack(
        [columns.argmax(1), rows.argmax(1), w - columns.flip(1).argmax(1), h - rows.flip(1).argmax(1)], 1
    ).float()
    return box.masked_fill(~masks.flatten(1).any(1)[:, None], torch.nan)


def crops(frames: Tensor, track: Track) -> Tensor:
    """A track's creature cut out of frames (F, 3, H, W), its mask last: (F, 4, CROP, CROP), else grey."""
    f, _, h, w = frames.shape
    box = boxes(track.masks).nan_to_num(0)
    side = (box[:, 2:] - box[:, :2]).amax(1).clamp(min=4) * 1.1
    middle = (box[:, 2:] + box[:, :2]) / 2
    theta = torch.zeros(f, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side / w, side / h
    theta[:, 0, 2], theta[:, 1, 2] = 2 * middle[:, 0] / w - 1, 2 * middle[:, 1] / h - 1
    cut = torch.cat([frames * track.masks[:, None], track.masks[:, None].float()], 1)
    grid = functional.affine_grid(theta, [f, 4, CROP, CROP], align_corners=False)
    return functional.grid_sample(cut, grid, align_corners=False)


def camera(clips: Tensor, empty: Tensor) -> Tensor:
    """How the background moves from frame to frame, (N, 3): right, down (pixels), closer (factor - 1).

    Least squares on the brightness constancy of all pairs of frames at once (Lucas and Kanade, 1981), with
    one steady motion for the whole clip. clips (N, F, 3, H, W); empty (N, F, H, W): where no creature is.
    """
    scale = 2
    free = functional.avg_pool2d(empty.float(), scale)
    grey = functional.avg_pool2d(clips.mean(2) * empty, scale)
    for _ in range(4):  # slopes are only true of a smooth picture
        grey, free = functional.avg_pool2d(grey, 3, 1, 1), functional.avg_pool2d(free, 3, 1, 1)
    grey = grey / free.clamp(min=0.02)  # the creatures have no say in it
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


def _measures(track: Track, move: Tensor) -> Tensor:
    """Place and shape of a creature in every frame (F, 7), in picture heights, the camera's motion taken out.

    Middle x, y; left, top, right, bottom of its box; square root of its area. Held where it is unseen.
    """
    f, h, w = track.masks.shape
    x, y = pixels(h, w)
    weight = track.masks / track.area.clamp(min=1)[:, None, None]
    raw = torch.cat(
        [(weight * x).sum((1, 2))[:, None], (weight * y).sum((1, 2))[:, None], boxes(track.masks)], 1
    )
    t = torch.arange(f) - (f - 1) / 2
    zoom = torch.exp(move[2] * t)[:, None]
    axis = torch.tensor([w / 2, h / 2]).repeat(3)
    steady = (raw - axis - (t[:, None] * move[:2]).repeat(1, 3)) / zoom + axis
    steady = torch.cat([steady, track.area.sqrt()[:, None] / zoom], 1) / h
    seen = (track.area > 0).nonzero()[:, 0]
    held = seen[torch.searchsorted(seen, torch.arange(f), right=True).sub(1).clamp(min=0)]
    return steady[held]


def geometry(tracks: list[Track], move: Tensor) -> Tensor:
    """What the tracks of a clip do, (T, F, GEOMETRY): own places, changes, and who is near on either side."""
    if not tracks:
        return torch.zeros(0, 0, GEOMETRY)
    all_places = torch.stack([_measures(t, move) for t in tracks])
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
