"""`castmix sandbox pretrain-sam2`: trains the sandbox's SAM 2 from scratch, on one core in some hours.

Cases are drawn (`examples`, `batches`). Then the model is trained in seven phases (`train`):

1. prompts: single images; the image encoder is frozen, because training both at once fails.
2. pictures: single images, all parameters.
3. copies: one image shown twice, so that the memory learns to locate the object; frozen encoder.
4. pairs: two frames, so that the memory learns to track; all parameters.
5. rows: six frames, as at inference; frozen encoder.
6. crossings: eight frames of slow cases, in which creatures occlude each other, at a lower learning rate.
7. refine: more of the same.

Every phase resumes where it was interrupted.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say, stage, track
from toolkit.core.run_record import write_run
from toolkit.sandbox.world.population import generic_looks
from toolkit.sandbox.world.shows import named_looks

if TYPE_CHECKING:
    from torch import nn

    from toolkit.sandbox.sam2_model.batches import Cases
    from toolkit.sandbox.sam2_model.train import Phase

SAY_EVERY = 50  # steps
FIRST_SLOW = 5000  # number of the first file of slow cases, so that no seed is used twice


def pretrain_sam2(
    out: Path,
    *,
    cases: int = 1500,
    prompts: int = 150,
    pictures: int = 1200,
    copies: int = 120,
    pairs: int = 600,
    rows: int = 700,
    crossings: int = 1200,
    refine: int = 1500,
    slow: int = 3000,
    measure: int = 16,
    seed: int = 0,
) -> Path:
    """Train the sandbox's SAM 2 from scratch, on one core. The same command continues an interrupted run.

    Args:
        out: Folder for drawn cases, training states, measurements and the result, `sam2`.
        cases: Number of cases to draw, in files of a hundred.
        prompts: Steps on single pictures with a frozen image encoder, 10 pictures each.
        pictures: Steps on single pictures, 10 each.
        copies: Steps on pictures shown twice, 10 each.
        pairs: Steps on pairs of frames, 8 each.
        rows: Steps on six consecutive frames, 4 each; the image encoder is frozen from here on.
        crossings: Steps on eight consecutive frames of the slow cases, 3 each.
        refine: More of the same steps at a lower learning rate.
        slow: Number of slow cases to draw: twice as many frames, mostly creatures that cross.
        measure: Number of clips of each kind for the final measurement; 0 skips it.
        seed: Random seed.

    Returns:
        The model's folder, in 16 bits, for `castmix segment --checkpoint`.
    """
    from toolkit.sandbox.sam2_model.train import new_learner, phases

    steps = {"prompts": prompts, "pictures": pictures, "copies": copies, "pairs": pairs, "rows": rows}
    steps |= {"crossings": crossings, "refine": refine}
    if min(cases, slow, *steps.values()) < 1:
        raise CastmixError(f"cases and steps are 1 or more, got {cases} and {slow} cases and {steps}")
    arguments = {"out": out, "cases": cases, "slow": slow, **steps, "measure": measure, "seed": seed}
    short_cases, slow_cases = _draw(out, cases, slow)
    learner = new_learner(seed)
    for phase in phases(**steps):
        stage(f"{phase.name}: {phase.length} frames of {phase.clips} cases a step")
        _train(learner, slow_cases if phase.slow else short_cases, phase, out, seed)
    folder = _save(learner, out / "sam2")
    facts = _measure(folder, out, measure) if measure else {}
    write_run(out / "run.yaml", "pretrain-sam2", arguments, followed=facts)
    return folder


def _draw(out: Path, cases: int, slow: int) -> tuple[Cases, Cases]:
    """Draw the missing files of cases. Returns the short cases and the slow ones."""
    from toolkit.sandbox.sam2_model.batches import SHARD, SHORT, SLOW, Cases, draw_shard

    out.mkdir(parents=True, exist_ok=True)
    looks = generic_looks(list(named_looks().values()))
    shards = [(out / f"cases-{k:03d}.npz", k, SHORT) for k in range(-(-cases // SHARD))]
    shards += [(out / f"slow-{k:03d}.npz", FIRST_SLOW + k, SLOW) for k in range(-(-slow // SHARD))]
    stage(f"drawing {len(shards) * SHARD} cases")
    for path, index, settings in track(shards, "drawing"):
        if not path.exists():
            draw_shard(path, index, looks, settings)
    short, long = (
        Cases.read([path for path, _, own in shards if own is settings]) for settings in (SHORT, SLOW)
    )
    return short, long


def _save(learner: nn.ModuleDict, folder: Path) -> Path:
    """Save the model in float16, in the format of transformers, and print its size. Returns its folder."""
    import torch

    model: Any = learner["model"]
    model.to(torch.float16).save_pretrained(folder)
    count = sum(p.numel() for p in model.parameters())
    size = sum(path.stat().st_size for path in folder.iterdir())
    say(f"{folder}: {count / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")
    return folder


def _train(learner: nn.ModuleDict, cases: Cases, phase: Phase, folder: Path, seed: int) -> None:
    """Train one phase and print the mean losses from time to time."""
    from toolkit.sandbox.sam2_model.train import fit

    recent: list[tuple[float, float, float]] = []
    start, steps = fit(learner, cases, phase, folder, seed)
    for step, found in track(steps, phase.name, total=phase.steps, start=start):
        recent.append((found.loss.item(), found.prompted, found.tracked))
        if step % SAY_EVERY == 0 or step == phase.steps:
            loss, prompted, tracked = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            said = f"{phase.name} {step}: loss {loss:.3f}, IoU of prompted frames {prompted:.3f}"
            say(said + (f", of tracked frames {tracked:.3f}" if phase.length > 1 else ""))
            recent.clear()


def _measure(checkpoint: Path, out: Path, clips: int) -> dict[str, dict[str, float]]:
    """Measure tracking and detection of named characters; print and save the table."""
    from toolkit.sandbox.sam2_model.report import measure_reference, measure_sam2, table

    stage("measuring on named characters")
    results = measure_sam2(str(checkpoint), out / "followed", clips=clips)
    noticed = measure_reference(str(checkpoint), out / "followed", clips=clips)
    say(table(results, noticed))
    facts = {family: asdict(one) for family, one in results.items()} | {"found": asdict(noticed)}
    write_atomic(out / "followed.json", json.dumps(facts, indent=1) + "\n")
    return facts
