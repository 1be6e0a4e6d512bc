"""The clips that fusion looks at: of each LoRA alone, and of several subjects with their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from toolkit.attention.maps import Grid, mask_target
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask
from toolkit.fusion.job import Job
from toolkit.lora.parts import Part
from toolkit.lora.special_tokens import TOKEN, encode_prompts, read_tokens, spans, token_nouns, token_of
from toolkit.models.interfaces import Encoders, ModelSpec
from toolkit.models.registry import load_encoders
from toolkit.sampling.masked_loras import phrases_in
from toolkit.training.cached_clips import Item, load_items


@dataclass(frozen=True)
class Pair:
    """A cached clip of several subjects: where its caption names them, and where their masks lie."""

    item: Item
    subjects: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    real: int
    masks: tuple[Path, ...]

    def targets(self, grid: Grid) -> Tensor:
        """What the subjects' token maps should be, (subjects, f, h, w), in [0, 1]."""
        return torch.stack([mask_target(torch.from_numpy(read_mask(path)), grid) for path in self.masks])


def own_items(parts: Sequence[Part], job: Job) -> list[list[Item]]:
    """For each part, the cached clips whose captions name its subjects and those of no other part.

    Raises:
        CastmixError: no folders, a part without subjects or without a clip, or a stale cache.
    """
    if not job.examples.clips:
        raise CastmixError(
            "this method looks at what each LoRA does on clips of its own: give their folders with --clips"
        )
    found: list[list[Item]] = [[] for _ in parts]
    everybody = [subject for part in parts for subject in part.subjects]
    for folder in job.examples.clips:
        for item in load_items(Path(folder), job.spec):
            there = phrases_in(item.text, everybody)
            owners = [i for i, part in enumerate(parts) if there & {*part.subjects}]
            if len(owners) == 1:
                found[owners[0]].append(item)
    for part, items in zip(parts, found, strict=True):
        if not items:
            who = ", ".join(part.subjects) or "nobody (give --subjects once for each LoRA, in order)"
            raise CastmixError(
                f"no clip in {', '.join(map(str, job.examples.clips))} is of {part.name} alone, which knows "
                f"{who}: a caption must name one of its subjects and none of another LoRA's"
            )
    return found


def load_pairs(folder: Path, spec: ModelSpec, parts: Sequence[Part], encoders: Encoders) -> list[Pair]:
    """Cached clips in which two or more subjects of the parts have accepted masks and are named.

    Raises:
        CastmixError: there is none, or the cache is stale.
    """
    known = [subject for part in parts for subject in part.subjects]
    nouns = token_nouns([part.lora for part in parts])
    clips = {clip.id: clip for clip in read_clips(folder)}
    pairs: list[Pair] = []
    for item in load_items(folder, spec):
        clip = clips[item.path.stem]
        there = phrases_in(item.text, known)
        # a mask is of a name, which the caption says or stands in for with its special token
        called = {
            name: one for name in accepted_mask_names(clip) for one in (name, token_of(name)) if one in there
        }
        if len(called) > 1:
            found, real = spans(encoders, item.text, [*called.values()], nouns)
            masks = tuple(mask_path(clip, name) for name in called)
            pairs.append(Pair(item, (*called.values(),), (*found,), real, masks))
    if not pairs:
        raise CastmixError(
            f"no clip in {folder} has masks of two of {', '.join(sorted({*known})) or 'nobody'} and names "
            "them: make some with `castmix composite --kind pairs`, then `castmix cache`"
        )
    return pairs


def worded(items: Iterable[Item], parts: Sequence[Part], spec: ModelSpec) -> dict[str, Tensor]:
    """Embeddings (L, D) of those captions that have special tokens of the parts in them, by caption.

    The cache has them as they are spelt; each LoRA was trained with its tokens' vectors.
    """
    loras = [part.lora for part in parts]
    known = read_tokens(loras)
    said = sorted({item.text for item in items if any(one in known for one in TOKEN.findall(item.text))})
    if not said:
        return {}
    encoders = load_encoders(spec)
    embeds = encode_prompts(encoders, said, loras).cpu()
    encoders.release_text()
    return dict(zip(said, embeds, strict=True))
