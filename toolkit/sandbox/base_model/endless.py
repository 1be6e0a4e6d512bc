"""Pretrains the sandbox's base model without an end, from the newest committed weights (`warm_start`).

The run can be stopped or killed at any time. It goes on to the same weights as an uninterrupted run. Files of
its folder:

| file | content |
|---|---|
| `start.json`, `vae.pt`, `dit.state` | all that is needed to go on |
| `pixels/`, `codec.pt`, `vae.state` | while the VAE is trained |
| `clips/` | clips of the current steps; missing ones are drawn again |
| `base/` | the newest averaged weights as a model folder |
| `loss.jsonl`, `vae.jsonl`, `scores.jsonl` | history |
| `sheets/` | contact sheets |
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from toolkit.core.files import save_torch, write_atomic, write_jsonl
from toolkit.core.progress import say
from toolkit.core.signals import StoppedError, raise_if_set, stop_signals
from toolkit.sandbox.base_model import history, warm_start
from toolkit.sandbox.base_model.architecture import TRAINING_FILE, new_vae
from toolkit.sandbox.base_model.clips import ClipWindow
from toolkit.sandbox.base_model.previews import tokenizer
from toolkit.sandbox.base_model.quick_score import PROMPTS, quick_score
from toolkit.sandbox.base_model.train_dit import Schedule, TextToVideo, train_dit
from toolkit.sandbox.base_model.vae_stage import train_vae_in, vae_clips

BATCH_SIZE, LEARNING_RATE, AVERAGE = 32, 1e-3, 0.9995
SAVE_EVERY, LOSS_EVERY, SCORE_EVERY = 20, 100, 1000  # steps
EARLY_SCORES = (250, 500)  # steps after the start, while the change is fast
CODEC_CLIPS = 800  # clips to fit the codec on
HISTORY = ("loss.jsonl", "vae.jsonl", "scores.jsonl")


@dataclass(frozen=True)
class Run:
    """Folder and seed of a run, the signal to stop, prompts of each kind for scores, whether to compile."""

    folder: Path
    seed: int
    stop: threading.Event
    prompts: int
    fast: bool


def train(
    folder: Path,
    *,
    vae_steps: int,
    dit_steps: int | None = None,
    prompts: int = PROMPTS,
    seed: int = 0,
    fast: bool = True,
) -> None:
    """Train until SIGTERM or SIGINT, or until the DiT has done `dit_steps` steps in this run.

    Args:
        folder: Folder of the run.
        vae_steps: Training steps of the VAE, if the run starts from the base that ships.
        dit_steps: Training steps of the DiT. Default: no end.
        prompts: Number of prompts of each kind for the scores. 0: no scores.
        seed: Random seed. A run keeps the seed that it started with.
        fast: Compile the DiT.
    """
    torch.set_num_threads(1)
    with stop_signals() as stop:
        origin, first_step, seed = _start_facts(folder, seed)
        run = Run(folder, seed, stop, prompts, fast)
        last_step = None if dit_steps is None else first_step + dit_steps
        try:
            vae = _vae(run, origin, vae_steps)
            if last_step is None or history.saved_step(folder / "dit.state") < last_step:
                _train_dit(run, origin, first_step, last_step, vae)
            say("done")
        except StoppedError:
            say("stopped")


def _start_facts(folder: Path, seed: int) -> tuple[Path, int, int]:
    """Return the folder of the weights that the run started from, their steps, and the seed of the run."""
    path = folder / "start.json"
    if not path.exists():
        newest = warm_start.newest_weights()
        facts = warm_start.training_facts(newest)
        for name, rows in facts["history"].items():
            write_jsonl(folder / name, rows)
        row = {"weights": newest.name, "steps": facts["steps"], "samples_a_step": BATCH_SIZE, "seed": seed}
        write_atomic(path, json.dumps(row) + "\n")
    row = history.read_start(folder)
    if row["seed"] != seed:
        say(f"note: this run goes on with its seed, {row['seed']}")
    return warm_start.SHIPPED.with_name(row["weights"]), row["steps"], row["seed"]


def _vae(run: Run, origin: Path, steps: int) -> AutoencoderKLWan:
    """Return the VAE of a run: that of its origin, or trained here if the origin is the base that ships."""
    folder = run.folder
    if not (folder / "vae.pt").exists():
        vae = warm_start.load_vae(origin)
        if origin == warm_start.SHIPPED:
            if not (folder / "codec.pt").exists():
                say("fitting the codec to the VAE")
                codec = warm_start.codec_of_vae(vae, vae_clips(folder, run.stop)[:CODEC_CLIPS])
                save_torch(asdict(codec), folder / "codec.pt")
            train_vae_in(folder, vae, steps, seed=run.seed, stop=run.stop)
        save_torch(vae.state_dict(), folder / "vae.pt")
    for no_longer_needed in (folder / "codec.pt", folder / "vae.state"):
        no_longer_needed.unlink(missing_ok=True)
    shutil.rmtree(folder / "pixels", ignore_errors=True)
    vae = new_vae().eval()
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    return vae


def _initial_model(run: Run, origin: Path, first_step: int, vae: AutoencoderKLWan) -> TextToVideo:
    """Return the model to train, with the weights of the origin. A score that a kill prevented is made up."""
    words = tokenizer()
    torch.manual_seed(run.seed)  # for the weights that the origin does not have
    if (state := history.load_state(run.folder / "dit.state")) is None:
        model, step = warm_start.load_text_to_video(origin, words), first_step
    else:
        model, step = TextToVideo(len(words)), state["step"]
    if _is_scored(step, first_step) and not any(
        row["step"] == step for row in history.read(run.folder / "scores.jsonl")
    ):
        if state is not None:
            model.load_state_dict(state["average"])
        _score(run, step, model, vae)
    return model


def _is_scored(step: int, first_step: int) -> bool:
    return step % SCORE_EVERY == 0 or step - first_step in (0, *EARLY_SCORES)


def _train_dit(run: Run, origin: Path, first_step: int, last_step: int | None, vae: AutoencoderKLWan) -> None:
    """Train DiT and text encoder until the signal to stop, or until `last_step`."""
    model = _initial_model(run, origin, first_step, vae)
    training = train_dit(
        ClipWindow(run.folder / "clips", vae, tokenizer(), first_step, run.stop),
        model,
        run.folder / "dit.state",
        Schedule(None, first_step),
        batch_size=BATCH_SIZE,
        lr=LEARNING_RATE,
        ema=AVERAGE,
        seed=run.seed,
        save_every=SAVE_EVERY,
        fast=run.fast,
    )
    losses: list[tuple[float, float]] = []
    began = time.monotonic()
    for step, errors, average in training:
        losses.append(errors)
        if step % LOSS_EVERY == 0:
            _log_loss(run, step, losses, time.monotonic() - began)
            losses.clear()
            began = time.monotonic()
        if _is_scored(step, first_step):
            _score(run, step, average, vae)
            began = time.monotonic()
        if run.stop.is_set() or (last_step is not None and step >= last_step):
            training.close()  # saves the state
            raise_if_set(run.stop)


def _log_loss(run: Run, step: int, losses: list[tuple[float, float]], seconds: float) -> None:
    """Write a row of `loss.jsonl`: mean losses since the row before, and samples per second."""
    loss, auxiliary = (round(float(value), 4) for value in np.mean(losses, 0))
    rate = round(len(losses) * BATCH_SIZE / seconds, 2)
    row = {"step": step, "loss": loss, "auxiliary": auxiliary, "rate": rate, "time": round(time.time())}
    history.go_on_from(run.folder / "loss.jsonl", step - 1)
    history.append(run.folder / "loss.jsonl", row)
    say(f"step {step}: loss {loss}, auxiliary loss {auxiliary}, {rate} samples a second")


def _score(run: Run, step: int, model: TextToVideo, vae: AutoencoderKLWan) -> None:
    """Save the weights as `base`, with the history so far. Score them, with a contact sheet."""
    base, scores = run.folder / "base", run.folder / "scores.jsonl"
    past = {name: history.read(run.folder / name) for name in HISTORY}
    facts = {"steps": step, "history": past}
    warm_start.save_weights(base, model, vae, facts)
    if not run.prompts:
        return
    began = time.monotonic()
    row = quick_score(base, run.folder / "sheets" / f"dit-{step:06d}.png", run.prompts)
    history.go_on_from(scores, step - 1)
    history.append(scores, {"step": step, "prompts": run.prompts, **row})
    past["scores.jsonl"] = history.read(scores)
    write_atomic(base / TRAINING_FILE, json.dumps(facts) + "\n")
    say(f"step {step}: {row}, measured in {time.monotonic() - began:.0f} s")
