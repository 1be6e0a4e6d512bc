"""`castmix attention-maps`: attention to the words of a prompt, drawn over the video."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.captions.grammar import TAG
from toolkit.core.errors import CastmixError
from toolkit.core.files import safetensors_bytes, write_atomic
from toolkit.core.progress import say
from toolkit.core.run_record import write_run

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.footage.decoding import Frames
    from toolkit.sampling.attention_view import AttentionView, ViewedVideo
    from toolkit.sampling.session import Studio


def attention_maps(
    out: Path,
    *,
    prompt: str = "",
    subject: Sequence[str] = (),
    video: Path | None = None,
    probe: Path | None = None,
    count: int = 12,
    lora: Sequence[str] = (),
    model: str = "sandbox",
    sigma: Sequence[float] = (0.9, 0.75, 0.5),
    layers: Sequence[int] = (),
    steps: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Draw the attention to each subject of a prompt, or rank blocks by how well their attention finds it.

    With --prompt: attention to each subject as heat over a generated or given video, at several noise levels.
    Subjects that bleed into each other are bright in the same places.

    With --probe: every block's attention, compared with the masks of clips (`castmix segment`).

    Args:
        out: Folder to write: sheet.png, an .mp4 per subject and noise level, and maps.safetensors; with
            --probe layers.json and layers.md.
        prompt: What the video shows.
        subject: Words of the prompt, as written there. Default: its tagged characters.
        video: Video to read maps of. Default: one is generated.
        probe: Folder of clips with masks, instead of a prompt. Their captions name the masked characters.
        count: Most clips to probe.
        lora: LoRA files or folders of runs, each with its weight after a colon (run/a:0.8).
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        sigma: Noise levels, in (0, 1].
        layers: Blocks whose maps are averaged. Default: the best blocks of known models; for other models,
            some of the first half.
        steps: Denoising steps of a generated video. Default: the model's setting.
        seed: Seed of the noise.

    Returns:
        The sheet and the videos, or the table.

    Raises:
        CastmixError: No prompt and no clips, a subject that the prompt does not name, or a missing block.
    """
    arguments, out = {**locals()}, Path(out)
    subjects = tuple(dict.fromkeys(subject or TAG.findall(prompt)))
    _check(prompt, probe, subjects, sigma, steps)
    from toolkit.sampling.attention_view import AttentionView
    from toolkit.sampling.session import load

    with load(model, lora=list(lora)) as studio:
        if probe is not None:
            made = _probe(studio, Path(probe), count, sigma, seed, out)
        else:
            view = AttentionView(studio, prompt, subjects, tuple(sigma), tuple(layers), seed)
            viewed = view.of_new_video(steps) if video is None else view.of_video(Path(video))
            made = _write(viewed, view, out, generated=video is None)
    write_run(out / "run.yaml", "attention-maps", arguments)
    return made


def _check(
    prompt: str, probe: Path | None, subjects: Sequence[str], sigma: Sequence[float], steps: int | None
) -> None:
    if bool(prompt) == (probe is not None):
        raise CastmixError("give either --prompt (and --video), or --probe CLIPS")
    if not sigma or not all(0 < level <= 1 for level in sigma):
        raise CastmixError(f"sigma must be above 0 and at most 1, got {', '.join(map(str, sigma)) or 'none'}")
    if steps is not None and steps < 1:
        raise CastmixError(f"steps must be 1 or more, got {steps}")
    if prompt and not subjects:
        raise CastmixError(
            f"no subject in {prompt!r}: give words of the prompt, such as --subject 'red ball'"
        )


def _write(viewed: ViewedVideo, view: AttentionView, out: Path, *, generated: bool) -> list[Path]:
    """Save the maps, print how much they overlap, and draw them."""
    from toolkit.attention.maps import normalised

    tensors = {
        f"sigma_{level:.2f}/{name}": subject_map
        for level, maps in viewed.maps.items()
        for name, subject_map in zip(view.subjects, maps, strict=True)
    }
    metadata = {"prompt": view.prompt, "layers": json.dumps(viewed.layers)}
    write_atomic(out / "maps.safetensors", safetensors_bytes(tensors, metadata))
    for level, maps in viewed.maps.items():
        for (a, first), (b, second) in itertools.combinations(zip(view.subjects, maps, strict=True), 2):
            say(f"sigma {level:.2f}: {a} and {b} share {overlap(first, second):.0%} of their hottest places")
    drawn = {level: normalised(maps) for level, maps in viewed.maps.items()}
    fps = view.studio.spec.fps
    return _draw(out, viewed.frames, fps, view.subjects, drawn, view.prompt, generated=generated)


def overlap(first: Tensor, second: Tensor) -> float:
    """IoU of the hottest tenth of two maps (f, h, w): 1 means that subjects bleed into each other, 0 none."""
    count = max(1, first.numel() // 10)
    a, b = (set(heat.flatten().topk(count).indices.tolist()) for heat in (first, second))
    return len(a & b) / len(a | b)


def _draw(
    out: Path,
    shown: Frames,
    fps: float,
    subjects: Sequence[str],
    maps: dict[float, Tensor],
    prompt: str,
    *,
    generated: bool,
) -> list[Path]:
    """Draw the sheet, and a video for each subject and noise level."""
    from toolkit.attention.heatmap import overlay, upsampled, with_title
    from toolkit.footage.video import contact_sheet, write_video
    from toolkit.sampling.output import NOTICE

    about = {"description": prompt, **({"comment": NOTICE} if generated else {})}
    rows, paths = [with_title(shown, "the video")], []
    for i, name in enumerate(subjects):
        for level, maps_of_level in sorted(maps.items(), reverse=True):
            heat = upsampled(maps_of_level[i], len(shown), *shown.shape[1:3])
            rows.append(overlay(shown, heat, f"{name}, sigma {level:.2f}"))
            slug = re.sub(r"\W+", "-", name.casefold()).strip("-")
            paths.append(out / f"{i}-{slug}-sigma{level:.2f}.mp4")
            write_video(paths[-1], rows[-1], fps, about)
    contact_sheet(rows, out / "sheet.png", columns=min(5, len(shown)))
    return [out / "sheet.png", *paths]


def _probe(
    studio: Studio, clips: Path, count: int, sigmas: Sequence[float], seed: int, out: Path
) -> list[Path]:
    """Rank all blocks, and find the combination whose mean map is best."""
    from toolkit.attention.block_ranking import (
        MaskedClipReader,
        best_combination,
        maps_of_all_blocks,
        markdown_table,
        rank_layers,
        read_masked_clips,
    )
    from toolkit.sampling.attention_view import at_clip, blocks

    reader = MaskedClipReader(studio.geometry, studio.encoders, studio.denoiser, studio.loras.files)
    masked = read_masked_clips(reader, clips, count)
    active = functools.partial(at_clip, studio)
    maps = maps_of_all_blocks(studio.denoiser, masked, sigmas, blocks(studio), seed, active)
    ranked = rank_layers(maps, masked, sigmas)
    best, combined = best_combination(maps, masked, sigmas, ranked, most=8)
    record = {
        "model": studio.spec.name,
        "clips": [clip.name for clip in masked],
        "layers": [vars(score) for score in ranked],
        "best": {"cross": best.cross, **{k: v for k, v in vars(combined).items() if k != "layer"}},
    }
    write_atomic(out / "layers.json", json.dumps(record, indent=1, default=float) + "\n")
    write_atomic(out / "layers.md", markdown_table(ranked, best, combined))
    return [out / "layers.md", out / "layers.json"]
