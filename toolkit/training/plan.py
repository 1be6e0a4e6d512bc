"""The first part of training: check settings, caches and the run to resume. No model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.core.progress import say
from toolkit.lora.settings import Adapter, check_adapter
from toolkit.lora.special_tokens import fingerprint_tokens
from toolkit.models.interfaces import ModelSpec
from toolkit.models.registry import find_model, fingerprint
from toolkit.training.appearance_prompt import check_motion
from toolkit.training.cached_clips import CachedClip, load_cached_clips
from toolkit.training.checkpoint import resumable_step
from toolkit.training.mix import Mix, hold_out, new_mix
from toolkit.training.prompts import captions_with_tokens
from toolkit.training.settings import Batches, Memory, Objective, ObjectiveName, Optim, Watch, check_optim

if TYPE_CHECKING:
    from toolkit.lora.file import Lora


@dataclass(frozen=True)
class Plan:
    """A training run that passed all checks.

    Attributes:
        data: Folders of clips, each with a cache.
        spec: The base model.
        out: Folder of the run.
        steps: Total number of steps.
        clips: Clips to learn from, in the order of their folders.
        held: Clips held out for validation.
        preserved: Clips of the base model's own world.
        mix: The clips of every step.
        tokens: File with special tokens that captions use, if any.
        start: Number of steps that are finished already.
        result_settings: Settings that the result depends on, by name; compared when a run is resumed.
    """

    data: Sequence[Path]
    spec: ModelSpec
    out: Path
    steps: int
    clips: Sequence[CachedClip]
    held: Sequence[CachedClip]
    preserved: Sequence[CachedClip]
    mix: Mix
    tokens: Lora | None
    adapter: Adapter
    optim: Optim
    batches: Batches
    objective: Objective
    memory: Memory
    watch: Watch
    start: int = 0
    result_settings: dict[str, Any] = field(default_factory=dict)


def check(
    data: Sequence[Path],
    out: Path,
    *,
    model: str,
    steps: int,
    seed: int,
    restart: bool,
    adapter: Adapter,
    optim: Optim,
    batches: Batches,
    objective: Objective,
    memory: Memory,
    watch: Watch,
) -> Plan:
    """Check all that can be checked before the model is loaded. The arguments are those of `toolkit.train`.

    Raises:
        CastmixError: settings out of range, a missing or stale cache, or a run in `out` with other settings.
    """
    if steps < 1:
        raise CastmixError(f"steps must be 1 or more, got {steps}")
    if objective.name not in get_args(ObjectiveName):
        names = " or ".join(get_args(ObjectiveName))
        raise CastmixError(f"objective.name must be {names}, got {objective.name!r}")
    check_adapter(adapter)
    check_optim(optim)
    data, spec = [Path(folder) for folder in data], find_model(model)
    clips, held, preserved = _load_clips(data, spec, batches)
    plan = Plan(
        data=data,
        spec=spec,
        out=Path(out),
        steps=steps,
        clips=clips,
        held=held,
        preserved=preserved,
        mix=new_mix(clips, preserved, batches, seed),
        tokens=_load_tokens(adapter.tokens, [*clips, *held, *preserved]),
        adapter=adapter,
        optim=optim,
        batches=batches,
        objective=objective,
        memory=memory,
        watch=watch,
    )
    settings = _result_settings(plan)
    start = 0 if restart else resumable_step(plan.out, settings, steps)
    return dataclasses.replace(plan, start=start, result_settings=settings)


def _load_clips(
    folders: Sequence[Path], spec: ModelSpec, batches: Batches
) -> tuple[list[CachedClip], list[CachedClip], list[CachedClip]]:
    """Clips to learn from, clips held out, and preserved clips."""
    split = [hold_out(load_cached_clips(folder, spec), batches.holdout) for folder in folders]
    clips, held = ([clip for part in split for clip in part[side]] for side in (0, 1))
    preserved = [] if batches.preserve is None else load_cached_clips(Path(batches.preserve), spec)
    if _are_stills(preserved) and not _are_stills(clips):
        say(
            f"warning: {batches.preserve} has single frames only. They preserve what the base model draws; "
            "only clips preserve how it moves"
        )
    return clips, held, preserved


def _are_stills(clips: Sequence[CachedClip]) -> bool:
    return bool(clips) and all(clip.shape[1] == 1 for clip in clips)


def _load_tokens(path: Path | None, clips: Sequence[CachedClip]) -> Lora | None:
    """The file of special tokens; some caption must use one."""
    if path is None:
        return None
    from toolkit.lora.file import load_lora

    tokens = load_lora(Path(path))
    if not captions_with_tokens([clip.text for clip in clips], [tokens]):
        raise CastmixError(
            f"no caption has one of the tokens {', '.join(sorted(tokens.tokens)) or '(none)'}: write them "
            "into the captions, or leave out --adapter.tokens"
        )
    return tokens


def _result_settings(plan: Plan) -> dict[str, Any]:
    """Settings that the result depends on. Old checkpoints have these names: do not change them."""
    batches, motion = plan.batches, plan.objective.name == "motion"
    return {
        "model": fingerprint(plan.spec),
        "data": _identity([*plan.clips, *plan.held]),
        "preserve": _identity(plan.preserved),
        "preserve_share": batches.preserve_share if plan.preserved else None,
        "tokens": fingerprint_tokens(plan.tokens) if plan.tokens else None,
        "steps": plan.steps if plan.optim.schedule == "cosine" else None,
        "memory.precision": plan.memory.precision,
        "batch_size": batches.batch_size,
        "composites": batches.composites,
        "holdout": batches.holdout,
        "caption_dropout": batches.caption_dropout,
        "seed": plan.mix.seed,
        **_flat("optim", plan.optim),
        **_flat("sigma", plan.objective.sigma),
        **_flat("adapter", plan.adapter, but=("tokens", "save_dtype")),
        "adapter.save_dtype": "float32",  # training is float32, whatever lora.safetensors is
        **({"objective": "motion", **check_motion(plan.objective.motion)} if motion else {}),
    }


def _identity(clips: Sequence[CachedClip]) -> str:
    """Clips and captions in one line, for messages and for comparison."""
    prints = ",".join(clip.fingerprint for clip in clips)
    return f"{len(clips)} clips ({fingerprint_text(prints)})"


def _flat(group: str, settings: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """A group's fields by dotted name."""
    fields = dataclasses.asdict(settings).items()
    return {f"{group}.{name}": value for name, value in fields if name not in but}
