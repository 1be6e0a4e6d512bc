"""Errors in settings, caches and runs are found before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import toolkit
from toolkit.commands.cache import cache
from toolkit.commands.train import train
from toolkit.training.checkpoint import load_checkpoint
from toolkit.training.settings import Batches

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate")


def test_a_plan_is_made_without_torch(
    tmp_path: Path, make_clips: Callable[..., Path], tiny_wan: Path
) -> None:
    """Also for a run to resume, and for every error that is found."""
    show = make_clips(tmp_path / "show", 2)
    cache(show, model=str(tiny_wan))
    train([show], tmp_path / "run", model=str(tiny_wan), steps=1, batches=Batches(1, holdout=0))
    code = f"""
import sys
from pathlib import Path
from toolkit import Adapter, Batches, CastmixError, Memory, Objective, Optim, Watch
from toolkit.training.plan import check
show, run = Path({str(show)!r}), Path({str(tmp_path / "run")!r})

def plan(data=show, steps=2, adapter=Adapter(), optim=Optim(), batches=Batches(1, holdout=0), seed=0,
         objective=Objective()):
    return check([data], run, model={str(tiny_wan)!r}, steps=steps, seed=seed, restart=False, adapter=adapter,
                 optim=optim, batches=batches, objective=objective, memory=Memory(), watch=Watch())

print(plan().start)
for wrong in (
    dict(steps=0), dict(seed=1), dict(data=run), dict(adapter=Adapter(targets=("x",))),
    dict(objective=Objective("looks")),
    dict(optim=Optim(betas=(2, 2))), dict(batches=Batches(0)), dict(batches=Batches(composites=1)),
    dict(batches=Batches(1, preserve=run)), dict(batches=Batches(holdout=9)),
):
    try:
        plan(**wrong)
        print("no error:", wrong)
    except CastmixError:
        pass
print([name for name in {HEAVY} if name in sys.modules])
"""
    folder = Path(toolkit.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n") == ["1", "[]", ""], done.stderr


def test_what_a_resumed_run_compares_has_the_names_of_old_runs(
    tmp_path: Path, make_clips: Callable[..., Path], tiny_wan: Path
) -> None:
    """And no others, or old runs could not be resumed."""
    show = make_clips(tmp_path / "show", 1)
    cache(show, model=str(tiny_wan))
    train([show], tmp_path / "run", model=str(tiny_wan), steps=1, batches=Batches(1, holdout=0))
    assert set(load_checkpoint(tmp_path / "run").settings) == {
        *("model", "data", "preserve", "preserve_share", "tokens", "steps", "seed", "memory.precision"),
        *("batch_size", "composites", "holdout", "caption_dropout"),
        *("adapter.rank", "adapter.alpha", "adapter.targets", "adapter.heads", "adapter.save_dtype"),
        *("optim.name", "optim.lr", "optim.betas", "optim.weight_decay", "optim.warmup", "optim.schedule"),
        *("optim.grad_clip", "sigma.mean", "sigma.std", "sigma.shift"),
    }
