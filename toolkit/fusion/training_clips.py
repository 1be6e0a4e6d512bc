"""Finds the cached clips for fusion: clips of each LoRA's own subjects, and clips of several subjects."""

from __future__ import annotations

from collections.abc import Sequence
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
from toolkit.lora.special_tokens import subject_spans, token_from_name, token_nouns
from toolkit.models.interfaces import Encoders, ModelSpec
from toolkit.sampling.masked_loras import phrases_in
from toolkit.training.cached_clips import CachedClip, load_cached_clips


@dataclass(frozen=True)
class Pair:
    """A cached clip with two or more subjects (a clip of --pairs).

    Attributes:
        item: The cached clip.
        subjects: The subjects as its caption names them.
        spans: Token positions of each subject in the caption.
        real: Number of prompt tokens before the padding.
        masks: Mask file of each subject.
    """

    item: CachedClip
    subjects: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    real: int
    masks: tuple[Path, ...]

    def targets(self, grid: Grid) -> Tensor:
        """Targets of the subjects' token maps: their masks on the token grid, (subjects, f, h, w), 0 to 1."""
        return torch.stack([mask_target(torch.from_numpy(read_mask(path)), grid) for path in self.masks])


def clips_by_part(parts: Sequence[Part], job: Job) -> list[list[CachedClip]]:
    """For each part, the cached clips whose captions name its subjects and no subject of another part.

    Raises:
        CastmixError: No folders are given, a part has no subjects or no clip, or a cache is stale.
    """
    if not job.examples.clips:
        raise CastmixError(
            "this method runs each LoRA on clips of its own subjects: give their folders with --clips"
        )
    found: list[list[CachedClip]] = [[] for _ in parts]
    all_subjects = [subject for part in parts for subject in part.subjects]
    for folder in job.examples.clips:
        for item in load_cached_clips(Path(folder), job.spec):
            named = phrases_in(item.text, all_subjects)
            owners = [i for i, part in enumerate(parts) if named & {*part.subjects}]
            if len(owners) == 1:
                found[owners[0]].append(item)
    for part, items in zip(parts, found, strict=True):
        if not items:
            subjects = ", ".join(part.subjects) or "none (give --subjects once per LoRA, in order)"
            raise CastmixError(
                f"no clip in {', '.join(map(str, job.examples.clips))} belongs to {part.name} alone; its "
                f"subjects: {subjects}. A caption must name one of them and no subject of another LoRA"
            )
    return found


def load_pairs(folder: Path, spec: ModelSpec, parts: Sequence[Part], encoders: Encoders) -> list[Pair]:
    """Cached clips in which two or more subjects of the parts have accepted masks and are named.

    Raises:
        CastmixError: There is no such clip, or the cache is stale.
    """
    known = [subject for part in parts for subject in part.subjects]
    nouns = token_nouns([part.lora for part in parts])
    clips = {clip.id: clip for clip in read_clips(folder)}
    pairs: list[Pair] = []
    for item in load_cached_clips(folder, spec):
        clip = clips[item.path.stem]
        named = phrases_in(item.text, known)
        # masks are filed by name; the caption has the name or its special token
        called = {
            name: one
            for name in accepted_mask_names(clip)
            for one in (name, token_from_name(name))
            if one in named
        }
        if len(called) > 1:
            found, real = subject_spans(encoders, item.text, [*called.values()], nouns)
            masks = tuple(mask_path(clip, name) for name in called)
            pairs.append(Pair(item, (*called.values(),), (*found,), real, masks))
    if not pairs:
        raise CastmixError(
            f"no clip in {folder} has masks of two subjects that its caption names (subjects: "
            f"{', '.join(sorted({*known})) or 'none'}): make such clips with "
            "`castmix composite --kind pairs`, then run `castmix cache`"
        )
    return pairs
