"""Ranks a network's blocks by how well their token maps agree with the masks of the subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.attention.map_reading import MapLayers, map_reducer, token_grid
from toolkit.attention.maps import mask_target
from toolkit.captions.whole_words import find_phrase
from toolkit.core.errors import CastmixError
from toolkit.core.progress import track
from toolkit.core.seeds import generator_for
from toolkit.footage.clips import Clip, read_clips
from toolkit.footage.decoding import Frames
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask
from toolkit.footage.video import read_video
from toolkit.lora.file import Lora
from toolkit.lora.special_tokens import encode_prompts, subject_spans, token_nouns
from toolkit.models.flow_matching import interpolate
from toolkit.models.interfaces import Denoiser, Encoders, Geometry
from toolkit.models.pixels import frames_to_video
from toolkit.models.registry import shape_of


@dataclass(frozen=True, eq=False)
class MaskedClip:
    """A clip with masks of its subjects, encoded.

    Attributes:
        name: Id of the clip.
        prompt: Its caption.
        latents: (C, f, h, w), clean.
        prompt_embeds: (L, D), embeddings of the caption.
        real: Number of prompt tokens before the padding.
        spans: Token positions of each subject.
        targets: (subjects, f, h, w), the masks on the token grid; see `toolkit.attention.maps.mask_target`.
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
    """How well the maps of one block agree with the masks; means over clips and noise levels.

    Attributes:
        layer: Index of the block; -1 for a combination of blocks.
        iou: IoU of the mask with the map's highest tokens, as many as the mask has.
        chance: The IoU that random tokens would have.
        apart: Share of a subject's tokens where its own map, divided by its mean, is the highest. None if no
            clip has several subjects.
        by_sigma: `iou` at each noise level.
    """

    layer: int
    iou: float
    chance: float
    apart: float | None
    by_sigma: dict[float, float]


@dataclass(frozen=True, eq=False)
class MaskedClipReader:
    """Encodes clips with masks; `loras` are files that bring special tokens."""

    geometry: Geometry
    encoders: Encoders
    denoiser: Denoiser
    loras: Sequence[Lora] = ()

    def read(self, clip: Clip, names: Sequence[str]) -> MaskedClip:
        """Encode a clip, with the masks of these characters, whom its caption names.

        Raises:
            CastmixError: The model does not support the clip's size.
        """
        frames, _ = read_video(clip.path)
        frames = frames[: whole_chunks(len(frames))]
        try:
            shape_of(self.geometry, *frames.shape[:3])
        except CastmixError as error:
            raise CastmixError(f"{clip.path}: {error}") from error
        latents = encode_frames(self.encoders, frames)
        found, real = subject_spans(self.encoders, clip.text, names, token_nouns(self.loras))
        (embeds,) = encode_prompts(self.encoders, [clip.text], self.loras)
        grid = token_grid(self.denoiser, latents)
        masks = [read_mask(mask_path(clip, name))[: len(frames)] for name in names]
        targets = [mask_target(torch.from_numpy(mask), grid) for mask in masks]
        return MaskedClip(clip.id, clip.text, latents[0].cpu(), embeds, real, found, torch.stack(targets))


def read_masked_clips(reader: MaskedClipReader, clips: Path, count: int) -> list[MaskedClip]:
    """Encode at most `count` clips of a folder, evenly picked from those with usable masks.

    A usable mask is accepted, and the caption names its character.

    Raises:
        CastmixError: There is no such clip, or the model does not support a clip's size.
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
    """The largest 4k + 1 up to this number of frames; the VAE encodes such numbers only."""
    return (frames - 1) // 4 * 4 + 1


def encode_frames(encoders: Encoders, frames: Frames) -> Tensor:
    """Encode frames (F, H, W, 3) uint8 to latents (1, C, f, h, w)."""
    return encoders.encode_video(frames_to_video(frames.copy())[None])


@torch.no_grad()
def maps_of_all_blocks(
    denoiser: Denoiser,
    clips: Sequence[MaskedClip],
    sigmas: Sequence[float],
    blocks: int,
    seed: int,
    active: Callable[[MaskedClip], AbstractContextManager[None]] = lambda clip: nullcontext(),
) -> list[Tensor]:
    """Token maps of every block, for each clip (sigmas, blocks, subjects, f, h, w), on the CPU.

    The noise depends on seed, clip and noise level.

    Args:
        denoiser: The network.
        clips: The clips.
        sigmas: Noise levels.
        blocks: Number of blocks of the network.
        seed: Seed of the noise.
        active: Returns the context in which the network reads a clip, with its adapters.
    """
    found = []
    layers = range(blocks)
    for clip in track(clips, "reading maps"):
        latents = clip.latents.unsqueeze(0)
        reduce = map_reducer(token_grid(denoiser, latents), spans=clip.spans, real=clip.real)
        levels = []
        for i, sigma in enumerate(sigmas):
            noise = torch.randn(latents.shape, generator=generator_for(seed, i, f"probe/{clip.name}"))
            level = torch.tensor(sigma)
            with (
                active(clip),
                denoiser.capture_attention(cross=layers, stop_after=blocks - 1, reduce=reduce) as captured,
            ):
                denoiser(interpolate(latents, noise, level), level, clip.prompt_embeds.unsqueeze(0))
            levels.append(torch.stack([captured.maps["cross", layer][0].cpu() for layer in layers]))
        found.append(torch.stack(levels))
    return found


def score_layers(
    maps: Sequence[Tensor],
    clips: Sequence[MaskedClip],
    sigmas: Sequence[float],
    layers: Sequence[int],
    label: int,
) -> LayerScore:
    """Score the mean map of some layers.

    Args:
        maps: The result of `maps_of_all_blocks`.
        clips: The clips that it was given.
        sigmas: The noise levels that it was given.
        layers: The layers to average.
        label: `LayerScore.layer` of the result.
    """
    ious: dict[float, list[float]] = {sigma: [] for sigma in sigmas}
    chances: list[float] = []
    apart: list[float] = []
    for own, clip in zip(maps, clips, strict=True):
        for level, sigma in zip(own[:, list(layers)].mean(1), sigmas, strict=True):
            for iou, chance in map_ious(level, clip.targets):
                ious[sigma].append(iou)
                chances.append(chance)
            apart += separation(level, clip.targets)
    by_sigma = {sigma: _mean(values) for sigma, values in ious.items()}
    overall = _mean([iou for values in ious.values() for iou in values])
    return LayerScore(label, overall, _mean(chances), _mean(apart) if apart else None, by_sigma)


def map_ious(maps: Tensor, targets: Tensor) -> Iterator[tuple[float, float]]:
    """IoU of each subject's map with its target, and the IoU expected by chance.

    maps, targets: (n, f, h, w). A target covers the tokens with a value of 0.5 or more. The map's highest
    tokens are compared with it, as many as the target covers: so no threshold favours a layer. Subjects that
    cover no token, or all, are left out.
    """
    for own, target in zip(maps, targets, strict=True):
        wanted = target.flatten() >= 0.5
        count, total = int(wanted.sum()), wanted.numel()
        if 0 < count < total:
            hits = int(wanted[own.flatten().topk(count).indices].sum())
            yield hits / (2 * count - hits), count / (2 * total - count)


def separation(maps: Tensor, targets: Tensor) -> list[float]:
    """For each subject, the share of its tokens where its map divided by its mean is the highest.

    [] for one subject.
    """
    if len(maps) < 2:
        return []
    owner = (maps / maps.mean((-3, -2, -1), keepdim=True)).argmax(0)
    return [float((owner[t >= 0.5] == i).float().mean()) for i, t in enumerate(targets) if (t >= 0.5).any()]


def rank_layers(
    maps: Sequence[Tensor], clips: Sequence[MaskedClip], sigmas: Sequence[float]
) -> list[LayerScore]:
    """The score of every layer, best first; arguments as in `score_layers`."""
    blocks = maps[0].shape[1]
    scores = [score_layers(maps, clips, sigmas, [layer], layer) for layer in range(blocks)]
    return sorted(scores, key=lambda one: (-one.iou, one.layer))


def best_combination(
    maps: Sequence[Tensor],
    clips: Sequence[MaskedClip],
    sigmas: Sequence[float],
    ranked: Sequence[LayerScore],
    most: int,
) -> tuple[MapLayers, LayerScore]:
    """A set of layers with a good mean map, by greedy search, and its score.

    The search starts with the best single layer. Each next layer of the ranking, up to `most` layers, is
    added if it improves the IoU. The same layers are returned for temporal maps, because masks do not tell
    which blocks show motion.
    """
    chosen = [ranked[0].layer]
    top = score_layers(maps, clips, sigmas, chosen, -1)
    for one in ranked[1:most]:
        better = score_layers(maps, clips, sigmas, [*chosen, one.layer], -1)
        if better.iou > top.iou:
            chosen, top = [*chosen, one.layer], better
    layers = tuple(sorted(chosen))
    return MapLayers(layers, layers), top


def markdown_table(ranked: Sequence[LayerScore], best: MapLayers, combined: LayerScore) -> str:
    """A Markdown table of the scores of all blocks, best first, and of the combination `best`."""
    levels = list(combined.by_sigma)
    head = ["block", "IoU", "told apart", *(f"IoU at {level:g}" for level in levels)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    named = [*((str(one.layer), one) for one in ranked), (" ".join(map(str, best.cross)), combined)]
    for name, one in named:
        apart = "" if one.apart is None else f"{one.apart:.2f}"
        values = [name, f"{one.iou:.2f}", apart, *(f"{one.by_sigma[level]:.2f}" for level in levels)]
        lines.append(f"| {' | '.join(values)} |")
    note = f"The IoU by chance is {combined.chance:.2f}. The last row is the mean map of these blocks."
    return "\n".join([*lines, "", note, ""])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
