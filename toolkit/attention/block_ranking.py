"""Which blocks' attention finds the subjects: token maps of a network against masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.attention.maps import MapLayers, mask_target, reader, token_grid
from toolkit.captions.whole_words import find_phrase
from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.core.seeds import generator_for
from toolkit.footage.clips import Clip, read_clips
from toolkit.footage.decoding import Frames
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask
from toolkit.footage.video import read_video
from toolkit.lora.file import Lora
from toolkit.lora.special_tokens import encode_prompts, spans, token_nouns
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser, Encoders, Geometry
from toolkit.models.registry import shape_of


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip whose subjects' places are known.

    latents: (C, f, h, w), clean. prompt_embeds: (L, D), of which `real` are no pads. spans: of each subject.
    targets: (subjects, f, h, w) in tokens, see `toolkit.attention.maps.mask_target`.
    """

    name: str
    prompt: str
    latents: Tensor
    prompt_embeds: Tensor
    real: int
    spans: Sequence[Sequence[int]]
    targets: Tensor


@dataclass(frozen=True)
class LayerScore:
    """How well one block's maps find subjects, on average over scenes and noise levels.

    iou: of the map's highest places with the mask, as many as the mask has. chance: what any places would
    have. apart: share of a subject's places where its own map is the highest, each over its mean; scenes of
    several subjects only. by_sigma: iou at each noise level.
    """

    layer: int
    iou: float
    chance: float
    apart: float | None
    by_sigma: dict[float, float]


@dataclass(frozen=True, eq=False)
class SceneReader:
    """What turns a clip with masks into a `Scene`: a model, and LoRA files that bring special tokens."""

    geometry: Geometry
    encoders: Encoders
    denoiser: Denoiser
    loras: Sequence[Lora] = ()

    def read(self, clip: Clip, names: Sequence[str]) -> Scene:
        """The scene of a clip whose caption names these characters.

        Raises:
            CastmixError: the clip is of a size that the model cannot take.
        """
        frames, _ = read_video(clip.path)
        frames = frames[: whole_chunks(len(frames))]
        try:
            shape_of(self.geometry, *frames.shape[:3])
        except CastmixError as error:
            raise CastmixError(f"{clip.path}: {error}") from error
        latents = encode_frames(self.encoders, frames)
        found, real = spans(self.encoders, clip.text, names, token_nouns(self.loras))
        (embeds,) = encode_prompts(self.encoders, [clip.text], self.loras)
        grid = token_grid(self.denoiser, latents)
        masks = [read_mask(mask_path(clip, name))[: len(frames)] for name in names]
        targets = [mask_target(torch.from_numpy(mask), grid) for mask in masks]
        return Scene(clip.id, clip.text, latents[0].cpu(), embeds, real, found, torch.stack(targets))


def read_scenes(reader: SceneReader, clips: Path, count: int) -> list[Scene]:
    """Clips with masks of characters that their captions name: at most `count`, evenly picked.

    Raises:
        CastmixError: there are none, or one is of a size that the model cannot take.
    """
    found: list[tuple[Clip, list[str]]] = []
    for clip in read_clips(clips):
        names = [name for name in accepted_mask_names(clip) if find_phrase(clip.text, name) >= 0]
        found += [(clip, names)] if names else []
    if not found or count < 1:
        raise CastmixError(
            f"{clips}: no clip has an accepted mask of a character that its caption names: "
            f"run `castmix segment {clips}`"
        )
    step = max(1, len(found) / count)
    picked = [found[int(i * step)] for i in range(min(count, len(found)))]
    return [reader.read(clip, names) for clip, names in picked]


def whole_chunks(frames: int) -> int:
    """The largest 4k + 1 of so many frames: what the VAE encodes."""
    return (frames - 1) // 4 * 4 + 1


def encode_frames(encoders: Encoders, frames: Frames) -> Tensor:
    """Frames (F, H, W, 3) uint8 to latents (1, C, f, h, w)."""
    video = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return encoders.encode_video(video)


@torch.no_grad()
def probe(
    denoiser: Denoiser,
    scenes: Sequence[Scene],
    sigmas: Sequence[float],
    blocks: int,
    seed: int,
    active: Callable[[Scene], AbstractContextManager[None]] = lambda scene: nullcontext(),
) -> list[Tensor]:
    """Token maps of every block, for each scene (sigmas, blocks, subjects, f, h, w), on the CPU.

    The noise of a scene depends on seed, scene and noise level. active: makes the context in which the
    network reads a scene, with its adapters.
    """
    found = []
    layers = range(blocks)
    for scene in track(scenes, "reading maps"):
        latents = scene.latents.unsqueeze(0)
        read = reader(token_grid(denoiser, latents), spans=scene.spans, real=scene.real)
        levels = []
        for i, sigma in enumerate(sigmas):
            noise = torch.randn(latents.shape, generator=generator_for(seed, i, f"probe/{scene.name}"))
            level = torch.tensor(sigma)
            with active(scene), denoiser.tap(cross=layers, stop_after=blocks - 1, read=read) as taps:
                denoiser(interpolate(latents, noise, level), level, scene.prompt_embeds.unsqueeze(0))
            levels.append(torch.stack([taps.maps["cross", layer][0].cpu() for layer in layers]))
        found.append(torch.stack(levels))
    return found


def score(
    maps: Sequence[Tensor],
    scenes: Sequence[Scene],
    sigmas: Sequence[float],
    layers: Sequence[int],
    label: int,
) -> LayerScore:
    """Score the mean of these layers' maps, as `probe` made them, under the number `label`."""
    ious: dict[float, list[float]] = {sigma: [] for sigma in sigmas}
    chances: list[float] = []
    apart: list[float] = []
    for own, scene in zip(maps, scenes, strict=True):
        for level, sigma in zip(own[:, list(layers)].mean(1), sigmas, strict=True):
            for iou, chance in agreements(level, scene.targets):
                ious[sigma].append(iou)
                chances.append(chance)
            apart += told_apart(level, scene.targets)
    by_sigma = {sigma: _mean(values) for sigma, values in ious.items()}
    overall = _mean([iou for values in ious.values() for iou in values])
    return LayerScore(label, overall, _mean(chances), _mean(apart) if apart else None, by_sigma)


def agreements(maps: Tensor, targets: Tensor) -> Iterator[tuple[float, float]]:
    """IoU of each subject's map with its target, and what chance would reach; too small ones are left out.

    maps, targets: (n, f, h, w). The target's places are those that it half covers; the map's are as many of
    its highest ones: no threshold favours a layer.
    """
    for own, target in zip(maps, targets, strict=True):
        wanted = target.flatten() >= 0.5
        count, total = int(wanted.sum()), wanted.numel()
        if 0 < count < total:
            hits = int(wanted[own.flatten().topk(count).indices].sum())
            yield hits / (2 * count - hits), count / (2 * total - count)


def told_apart(maps: Tensor, targets: Tensor) -> list[float]:
    """For each of several subjects, the share of its places where its map, over its mean, is the highest."""
    if len(maps) < 2:
        return []
    owner = (maps / maps.mean((-3, -2, -1), keepdim=True)).argmax(0)
    return [float((owner[t >= 0.5] == i).float().mean()) for i, t in enumerate(targets) if (t >= 0.5).any()]


def rank(maps: Sequence[Tensor], scenes: Sequence[Scene], sigmas: Sequence[float]) -> list[LayerScore]:
    """Every layer's score, the best first."""
    blocks = maps[0].shape[1]
    scores = [score(maps, scenes, sigmas, [layer], layer) for layer in range(blocks)]
    return sorted(scores, key=lambda one: (-one.iou, one.layer))


def best_together(
    maps: Sequence[Tensor],
    scenes: Sequence[Scene],
    sigmas: Sequence[float],
    ranked: Sequence[LayerScore],
    most: int,
) -> tuple[MapLayers, LayerScore]:
    """The layers whose mean map agrees best: from the best one on, each of the next is kept if it helps.

    Those are ranked by themselves, so only `most` are tried. Temporal layers are the same: nothing here says
    which blocks show motion.
    """
    chosen = [ranked[0].layer]
    top = score(maps, scenes, sigmas, chosen, -1)
    for one in ranked[1:most]:
        better = score(maps, scenes, sigmas, [*chosen, one.layer], -1)
        if better.iou > top.iou:
            chosen, top = [*chosen, one.layer], better
    layers = tuple(sorted(chosen))
    return MapLayers(layers, layers), top


def table(ranked: Sequence[LayerScore], best: MapLayers, together: LayerScore) -> str:
    """Every block's score in Markdown, the best first."""
    levels = list(together.by_sigma)
    head = ["block", "IoU", "told apart", *(f"IoU at {level:g}" for level in levels)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    named = [*((str(one.layer), one) for one in ranked), (" ".join(map(str, best.cross)), together)]
    for name, one in named:
        apart = "" if one.apart is None else f"{one.apart:.2f}"
        values = [name, f"{one.iou:.2f}", apart, *(f"{one.by_sigma[level]:.2f}" for level in levels)]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(
        [*lines, "", f"By chance the IoU is {together.chance:.2f}. The last row is their mean map.", ""]
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
