"""`castmix train`: a LoRA from cached clips, in three parts: check, assemble, loop."""

from __future__ import annotations

from pathlib import Path

from toolkit.core.progress import say
from toolkit.core.run_record import write_run
from toolkit.lora.settings import LORA_FILE, Adapter
from toolkit.training.checkpoint import delete_run
from toolkit.training.plan import check
from toolkit.training.settings import Batches, Memory, Objective, Optim, Watch


def train(
    data: list[Path],
    out: Path,
    *,
    model: str = "sandbox",
    steps: int = 500,
    seed: int = 0,
    restart: bool = False,
    adapter: Adapter = Adapter(),
    optim: Optim = Optim(),
    batches: Batches = Batches(),
    objective: Objective = Objective(),
    memory: Memory = Memory(),
    watch: Watch = Watch(),
) -> Path:
    """Train a LoRA on cached clips. The same command again resumes an interrupted run.

    Args:
        data: Folders of clips, each with a cache of this model.
        out: Folder of the run: lora.safetensors, run.yaml, metrics.jsonl, tensorboard, samples.
        model: sandbox, wan2.1-t2v-1.3b, wan2.1-t2v-14b, a local folder or a hub id.
        steps: Total number of optimiser steps.
        seed: Random seed.
        restart: Start again from step 0 instead of resuming the run in OUT.
        adapter: The LoRA.
        optim: The optimiser.
        batches: What a batch contains.
        objective: The training objective.
        memory: Memory against time.
        watch: Checkpoints, validation and sample videos. They do not change the result.

    Returns:
        The path of lora.safetensors.

    Raises:
        CastmixError: missing or stale cache, settings that differ from the run in `out`, a loss that is not
            finite.
        KeyboardInterrupt: after Ctrl-C, when the state is saved.
    """
    arguments = dict(locals())
    plan = check(**arguments)
    if plan.start == steps:
        say(f"{plan.out} is finished ({steps} steps). Use more steps, or --restart to start again")
        return plan.out / LORA_FILE

    from toolkit.training import loop
    from toolkit.training.assemble import assemble

    run = assemble(plan)
    if run.accelerator.is_main_process:
        if restart:
            delete_run(plan.out)  # only now, when nothing can fail any more
        write_run(plan.out / "run.yaml", "train", {**arguments, "restart": False}, **run.facts)
    loop.train(run)
    return plan.out / LORA_FILE
