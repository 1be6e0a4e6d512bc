"""segment: masks of named characters beside every clip, with a quality check that needs no true masks.

A detector finds a character in one frame (a `Prompt`), a backend follows it through the clip. To add one,
write a function `Options -> Detect` or `Options -> Propagate` and add it to DETECTORS or SEGMENTERS at the
end of the file.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.captions.cast import Cast, Character, read_cast
from toolkit.captions.grammar import TAG
from toolkit.core.choices import choose
from toolkit.core.errors import CastmixError
from toolkit.core.files import write_jsonl
from toolkit.core.progress import say, track
from toolkit.core.run_record import write_run
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.masks import mask_path
from toolkit.sandbox.true_masks import detect_true_boxes, propagate_true_masks
from toolkit.segmentation.interfaces import Detect, Options, Propagate
from toolkit.segmentation.manual_prompts import manual_detector
from toolkit.segmentation.optical_flow_tracker import optical_flow_tracker
from toolkit.segmentation.quality_gates import Gates, is_struck_out, with_acceptance
from toolkit.segmentation.write_masks import write_masks

REJECTED = "rejected_masks.jsonl"
RUN = "segment.run.yaml"
OVERLAYS = "overlays"


@dataclass(frozen=True)
class _Plan:
    """The work on a clip: `missing` names characters without a mask, `kept` has the existing masks."""

    clip: Clip
    wanted: tuple[Character, ...] = ()
    kept: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class _Tools:
    """A detector and a backend, with their names."""

    backend: str
    detector: str
    detect: Detect
    propagate: Propagate


def segment(
    clips: Path,
    *,
    backend: str = "sam2",
    detect: str = "reference",
    checkpoint: str = "facebook/sam2.1-hiera-tiny",
    detector: str | None = None,
    characters: list[str] | None = None,
    prompts: Path | None = None,
    cast: Path | None = None,
    device: str | None = None,
    gates: Gates = Gates(),
    overwrite: bool = False,
) -> list[Clip]:
    """Make a mask of each character in each clip that has none, and check its quality.

    A mask is saved beside its clip as ``clips/<id>.<name>.mask.mkv``; the clip's JSON file records how it was
    made and its quality. A mask that fails a gate is kept but not accepted. Such masks, and characters that
    were not found, are listed in ``rejected_masks.jsonl``. ``overlays/<id>.mp4`` shows all masks of a clip.
    Each clip is saved as soon as it is done, so an interrupted run continues where it stopped. With other
    gates, existing masks are judged again.

    Args:
        clips: Folder of clips, made by prepare.
        backend: Follows a character through a clip: "sam2" (through transformers), "sam2-package" (the sam2
            package), "carry" (motion and colour, no model), "truth" (true masks of sandbox clips; needs no
            detector).
        detect: Finds a character in one frame: "reference" (by its reference pictures), "describe" (by its
            description, with an open-vocabulary model), "given" (boxes and points from a file), "truth" (true
            boxes of sandbox clips).
        checkpoint: SAM 2 or 2.1 model: a folder, a downloaded hub id, or "sandbox", the small model for the
            sandbox's shows that comes with castmix.
        detector: Open-vocabulary model for "describe": a folder or a downloaded hub id.
        characters: Segment only these characters. A clip with a caption is searched for those that it names,
            one without for all of them.
        prompts: For "given": a .jsonl file with rows of file_name, character, frame, and box (left, top,
            right, bottom) or points (x, y, true or false), in pixels of the clip.
        cast: Folder with your own shows, added to the built-in cast.
        device: Device of the models: cpu, cuda, cuda:1. Default: a GPU if there is one.
        gates: Limits that an accepted mask keeps.
        overwrite: Replace existing masks.

    Returns:
        The clips that have an accepted mask.

    Raises:
        CastmixError: An argument is wrong, a model is missing, or no clip has a mask at the end.
    """
    arguments, folder, registry = {**locals()}, Path(clips), read_cast(cast)
    found = read_clips(folder)
    only = tuple(registry.find(name)[1].name for name in characters or ())
    load = _check_tools(backend, detect, Options(checkpoint, detector, device, registry, prompts))
    plans = [_plan(clip, registry, only, overwrite) for clip in found]
    tools = load() if any(plan.missing for plan in plans) else None
    write_run(folder / RUN, "segment", arguments)
    done, rows = _segment_each(plans, tools, folder, gates)
    return _report(done, rows, folder)


def _check_tools(backend: str, detect: str, options: Options) -> Callable[[], _Tools]:
    """Check the names of backend and detector. Returns a function that loads both."""
    finder = "truth" if backend == "truth" else detect
    make_propagate = choose(SEGMENTERS, backend, "backend")
    make_detect = choose(DETECTORS, finder, "detector")
    if finder == "given":  # finds errors in the file even if no mask is missing
        make_detect(options)
    return lambda: _Tools(backend, finder, make_detect(options), make_propagate(options))


def _segment_each(
    plans: Sequence[_Plan], tools: _Tools | None, folder: Path, gates: Gates
) -> tuple[list[Clip], list[dict[str, Any]]]:
    """Segment and save clip by clip. Returns the clips, and the rows of rejected_masks.jsonl."""
    done: list[Clip] = []
    rows: list[dict[str, Any]] = []
    try:
        for plan in track(plans, "segmenting"):
            clip, rejected = _carry_out(plan, tools, folder, gates)
            done.append(clip)
            rows += rejected
    finally:  # also when a person interrupts
        write_jsonl(folder / REJECTED, rows)
        write_index(folder)
    return done, rows


def _plan(clip: Clip, cast: Cast, only: tuple[str, ...], overwrite: bool) -> _Plan:
    """Which masks a clip needs, and which exist."""
    named = list(dict.fromkeys(TAG.findall(clip.text)))
    names = [name for name in named if name in only or not only] if clip.text else list(only)
    if not clip.text and not only:
        return _Plan(
            clip, problem="it has no caption that says who is in it: caption it, or give --characters"
        )
    paths = Counter(mask_path(clip, name) for name in names)
    if twice := [path for path, count in paths.items() if count > 1]:
        return _Plan(clip, problem=f"two characters would share {twice[0].name}: rename one of them")
    try:
        wanted = tuple(cast.find(name)[1] for name in names)
    except CastmixError as error:
        return _Plan(clip, problem=str(error))
    known = clip.extra.get("masks", {})
    kept = {
        name: record
        for name, record in known.items()
        if mask_path(clip, name).exists() and not (overwrite and name in names)
    }
    return _Plan(clip, wanted, kept, tuple(name for name in names if name not in kept))


def _carry_out(
    plan: _Plan, tools: _Tools | None, folder: Path, gates: Gates
) -> tuple[Clip, list[dict[str, Any]]]:
    """Make the missing masks of a clip and judge all. Returns the clip, and rows of masks not accepted."""
    clip, masks = plan.clip, {**plan.kept}
    rows = [_row(clip, None, [plan.problem])] if plan.problem else []
    if tools and plan.missing:
        try:
            found = tools.detect(clip, plan.wanted)  # all of them: a region that is one character is no other
            prompts = {name: found[name] for name in plan.missing if name in found}
            if prompts:
                there = {
                    name: mask_path(clip, name) for name, record in masks.items() if not is_struck_out(record)
                }
                overlay = folder / OVERLAYS / f"{clip.id}.mp4"
                made = write_masks(clip, prompts, tools.propagate, overlay, there)
                how = {"backend": tools.backend, "detector": tools.detector}
                masks |= {name: how | record for name, record in made.items()}
            lost = [name for name in plan.missing if name not in found]
            rows += [_row(clip, name, [f"not found by {tools.detector}"]) for name in lost]
        except CastmixError as error:
            rows += [_row(clip, name, [str(error)]) for name in plan.missing]
    masks = {name: with_acceptance(record, gates) for name, record in masks.items()}
    for name, record in masks.items():
        if not record["accepted"]:
            reasons = record["reasons"] or ["struck out by hand"]
            rows.append(_row(clip, name, reasons, record.get("quality", {})))
    if masks != clip.extra.get("masks", {}):
        clip = dataclasses.replace(clip, extra={**clip.extra, "masks": masks})
        write_clip(folder, clip)
    return clip, rows


def _row(
    clip: Clip, name: str | None, reasons: list[str], quality: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """A row of rejected_masks.jsonl. quality: left out if there is no mask."""
    row = {"file_name": f"clips/{clip.path.name}", "character": name, "reasons": reasons}
    return row | ({"quality": dict(quality)} if quality is not None else {})


def _report(done: Sequence[Clip], rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Clip]:
    """Say how many masks were accepted and why others were not. Returns the clips with an accepted mask."""
    records = [record for clip in done for record in clip.extra.get("masks", {}).values()]
    if not records:
        first = f"; the first: {rows[0]['reasons'][0]}" if rows else ": no caption names a character"
        raise CastmixError(f"none of {len(done)} clips got a mask{first}")
    total = len(records) + sum("quality" not in row for row in rows)
    say(f"masks: {sum(record['accepted'] for record in records)} of {total} accepted")
    why: Counter[str] = Counter()
    for row in rows:  # counted by the gate's name: the numbers differ from mask to mask
        why.update(one.partition(" ")[0] if _BY_GATE.match(one) else one for one in row["reasons"])
    if why:
        words = ", ".join(f"{count} x {reason:.80}" for reason, count in why.most_common(8))
        say(f"masks: the others not because of: {words}; see {folder / REJECTED}")
    return [clip for clip in done if any(one["accepted"] for one in clip.extra.get("masks", {}).values())]


_BY_GATE = re.compile(r"\w+ [\d.]+ is (above|below) ")


# The functions below import a model's libraries when they are called.


def _sam2(options: Options) -> Propagate:
    from toolkit.segmentation.sam2 import sam2_tracker

    return sam2_tracker(options)


def _sam2_package(options: Options) -> Propagate:
    from toolkit.segmentation.sam2_package import sam2_package_tracker

    return sam2_package_tracker(options)


def _describe(options: Options) -> Detect:
    from toolkit.segmentation.detectors import description_detector

    return description_detector(options)


def _reference(options: Options) -> Detect:
    from toolkit.segmentation.detectors import reference_detector

    return reference_detector(options)


# Add a backend or a detector here: its name → a function of the options.
SEGMENTERS: Mapping[str, Callable[[Options], Propagate]] = {
    "sam2": _sam2,
    "sam2-package": _sam2_package,
    "carry": optical_flow_tracker,
    "truth": propagate_true_masks,
}
DETECTORS: Mapping[str, Callable[[Options], Detect]] = {
    "reference": _reference,
    "describe": _describe,
    "given": manual_detector,
    "truth": detect_true_boxes,
}
