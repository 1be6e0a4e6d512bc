from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toolkit.commands.cache import cache
from toolkit.commands.train import train
from toolkit.core import signals as interrupt
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips, write_clip, write_index
from toolkit.footage.video import probe
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.settings import Adapter
from toolkit.lora.special_tokens import Token, tokens_metadata
from toolkit.models.registry import fingerprint, load_denoiser
from toolkit.training import loop
from toolkit.training.cached_clips import load_samples, save_sample
from toolkit.training.checkpoint import load_checkpoint
from toolkit.training.metrics_log import read_metrics
from toolkit.training.optimizer import learning_rate
from toolkit.training.settings import Batches, Memory, Motion, Objective, Optim, Watch

MakeClips = Callable[..., Path]
SMALL: dict[str, Any] = {
    "batches": Batches(batch_size=2, holdout=1),
    "adapter": Adapter(rank=2, alpha=2),
    "optim": Optim(lr=0.05, warmup=2),
    "watch": Watch(validate_every=4),
}


def shared(world: Path, save_every: int = 100) -> dict[str, Any]:
    """`SMALL` with a clip of the base's world in every step."""
    batches = Batches(batch_size=2, holdout=1, preserve=world, preserve_share=0.5)
    return {**SMALL, "batches": batches, "watch": Watch(save_every, validate_every=4)}


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory, make_clips: MakeClips, tiny_wan: Path) -> Path:
    clips = make_clips(tmp_path_factory.mktemp("data") / "show", 4)
    cache(clips, model=str(tiny_wan))
    return clips


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_clips: MakeClips, tiny_wan: Path) -> Path:
    """Clips of another size, so that batches have rows of two shapes."""
    clips = make_clips(tmp_path_factory.mktemp("data") / "world", 3, name="Bruk", num_frames=5)
    cache(clips, model=str(tiny_wan))
    return clips


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, show: Path, world: Path, tiny_wan: Path) -> Path:
    """A run of eight steps, never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train([show], out, model=str(tiny_wan), steps=8, **shared(world))
    return out


def script_of(show: Path, world: Path, model: Path, out: Path, first: str = "") -> str:
    """A program that does what `finished` does."""
    return f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from toolkit import Adapter, Batches, Optim, Watch, train
{first}
train([Path({str(show)!r})], Path({str(out)!r}), model={str(model)!r}, steps=8,
      batches=Batches(2, preserve=Path({str(world)!r}), preserve_share=0.5, holdout=1),
      adapter=Adapter(rank=2, alpha=2), optim=Optim(lr=0.05, warmup=2),
      watch=Watch(save_every=2, validate_every=4))
"""


def test_the_loss_falls_and_all_files_are_written(finished: Path, tiny_wan: Path) -> None:
    rows = read_metrics(finished)
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == list(range(1, 9))
    assert {"loss", "loss_preserve", "lr", "grad_norm", "seconds"} <= set(losses[0])
    assert [row["lr"] for row in losses[:3]] == [0.025, 0.05, 0.05]
    held = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in held] == [0, 4, 8]
    assert held[-1]["val_loss"] < held[0]["val_loss"]
    assert len([name for name in held[0] if name.startswith("val_loss/sigma_")]) == 4
    assert list((finished / "tensorboard").iterdir())
    assert "steps: 8" in (finished / "run.yaml").read_text()

    lora = load_lora(finished)
    assert len(lora.tensors) == 20
    assert lora.rank == 2
    assert lora.metadata["castmix.base_fingerprint"] == fingerprint(str(tiny_wan))
    assert json.loads(lora.metadata["castmix.cast"]) == ["Pixo"]
    assert lora.metadata["castmix.steps"] == "8"
    assert str(tiny_wan.parent) not in (finished / "lora.safetensors").read_bytes().decode("latin-1")


def test_the_same_run_gives_the_same_bytes(
    finished: Path, show: Path, world: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)  # the global generator has no say
    path = train(
        [show],
        tmp_path,
        model=str(tiny_wan),
        steps=8,
        **shared(world, save_every=3),
    )
    assert path.read_bytes() == (finished / "lora.safetensors").read_bytes()
    other = train([show], tmp_path / "b", model=str(tiny_wan), steps=8, seed=1, **shared(world))
    assert path.read_bytes() != other.read_bytes()


def test_a_stopped_run_continues_to_the_same_bytes(
    finished: Path,
    show: Path,
    world: Path,
    tiny_wan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in step 5: that step is finished and saved; later the run goes on."""
    draw = loop.draw
    pressed: list[bool] = []

    def and_press_ctrl_c(*arguments: Any, **named: Any) -> Any:
        rows = read_metrics(tmp_path)
        if rows and rows[-1]["step"] == 4 and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)
        return draw(*arguments, **named)

    settings: dict[str, Any] = {"model": str(tiny_wan), **shared(world)}
    monkeypatch.setattr(loop, "draw", and_press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        train([show], tmp_path, steps=8, **settings)
    assert "stopped after step 5 of 8; the same command resumes" in capsys.readouterr().err
    assert load_lora(tmp_path).metadata["castmix.steps"] == "5"  # of use already
    monkeypatch.setattr(loop, "draw", draw)

    with pytest.raises(CastmixError, match=r"optim.lr was 0.05 and is 0.01.*seed was 0 and is 3.*--restart"):
        train([show], tmp_path, steps=8, **{**settings, "optim": Optim(lr=0.01, warmup=2)}, seed=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0}\n{"step": 7, "lo')  # what a crash leaves
    path = train([show], tmp_path, steps=8, **settings)
    assert path.read_bytes() == (finished / "lora.safetensors").read_bytes()
    rows, expected = read_metrics(tmp_path), read_metrics(finished)
    for row in [*rows, *expected]:
        row.pop("seconds", None)
    assert rows == expected

    capsys.readouterr()
    assert train([show], tmp_path, steps=8, **settings) == path
    assert "is finished (8 steps)" in capsys.readouterr().err
    with pytest.raises(CastmixError, match="is at step 8 already, steps is 6"):
        train([show], tmp_path, steps=6, **settings)
    train([show], tmp_path, steps=9, **settings)
    assert load_checkpoint(tmp_path).step == 9
    train([show], tmp_path, steps=8, restart=True, **settings)
    assert path.read_bytes() == (finished / "lora.safetensors").read_bytes()


def test_a_restart_that_cannot_begin_leaves_the_old_run(
    finished: Path, show: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    old = tmp_path / "run"
    shutil.copytree(finished, old)
    for wrong in ({"adapter": Adapter(targets=("attn9",))}, {"steps": 0}, {"optim": Optim(betas=(2.0, 3.0))}):
        settings: dict[str, Any] = {"model": str(tiny_wan), "steps": 8, "restart": True, **wrong}
        with pytest.raises(CastmixError):
            train([show], old, **settings)
    assert (old / "lora.safetensors").read_bytes() == (finished / "lora.safetensors").read_bytes()


def test_a_killed_run_continues_to_the_same_bytes(
    finished: Path, show: Path, world: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    """kill -9 of a real process somewhere in the middle, then the same again to the end."""
    script = tmp_path / "again.py"
    slow = """from toolkit.training import loop
draw = loop.draw
loop.draw = lambda *a, **k: time.sleep(0.1) or draw(*a, **k)"""
    script.write_text(script_of(show, world, tiny_wan, tmp_path, slow))
    with subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 600  # a busy machine may take long to import torch
            while not (rows := read_metrics(tmp_path)) or rows[-1]["step"] < 3:
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= load_checkpoint(tmp_path).step < 8
    path = train(
        [show],
        tmp_path,
        model=str(tiny_wan),
        steps=8,
        **shared(world, save_every=2),
    )
    assert path.read_bytes() == (finished / "lora.safetensors").read_bytes()


def test_the_lora_changes_the_model_as_trained(finished: Path, show: Path, tiny_wan: Path) -> None:
    """What is saved is what was trained: the loss of the last validation, computed from the file."""
    from toolkit.lora import layers as adapters
    from toolkit.models.registry import find_model
    from toolkit.training.batches import validation
    from toolkit.training.cached_clips import load_cached_clips
    from toolkit.training.mix import hold_out
    from toolkit.training.objectives import velocity_loss
    from toolkit.training.settings import Sigma

    denoiser = load_denoiser(str(tiny_wan))
    adapters.attach(denoiser.module, load_lora(finished), "a")
    _, held = hold_out(load_cached_clips(show, find_model(str(tiny_wan))), 1)
    (batch,) = validation(held, 4, Sigma(), 3.0, 0)
    with torch.no_grad(), adapters.activate(denoiser.module, {"a": 1}):
        loss = velocity_loss(denoiser, batch.latents, batch.prompt_embeds, batch.sigma, batch.noise).mean()
    last = [row["val_loss"] for row in read_metrics(finished) if "val_loss" in row][-1]
    assert float(loss) == pytest.approx(last, rel=1e-5)


def test_checkpointing_trains_the_same_lora(show: Path, tiny_wan: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_wan), "steps": 2, "batches": Batches(2)}
    small = Adapter(rank=2, targets=("attn2",), save_dtype="bfloat16")
    plain = train([show], tmp_path / "plain", adapter=small, **settings)
    slim = train([show], tmp_path / "slim", adapter=small, memory=Memory(checkpointing=True), **settings)
    one, two = load_lora(plain), load_lora(slim)
    assert {name.split(".")[2] for name in one.tensors} == {"attn2"}
    for name, (a, b) in one.tensors.items():
        assert torch.allclose(two.tensors[name][0], a, atol=1e-3)
        assert torch.allclose(two.tensors[name][1], b, atol=1e-3)


def test_bfloat16_rounds_and_auto_is_float32_on_a_cpu(
    show: Path, tiny_wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.training.assemble.fast_dtype", lambda device: torch.bfloat16)
    precisions: tuple[Any, ...] = ("float32", "auto", "bfloat16")
    files, losses = [], []
    for precision in precisions:
        out = tmp_path / precision
        files.append(train([show], out, model=str(tiny_wan), steps=2, memory=Memory(precision=precision)))
        losses.append([row["loss"] for row in read_metrics(out) if "loss" in row])
    assert losses[1] == losses[0]
    assert files[1].read_bytes() == files[0].read_bytes()
    assert losses[2] != losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=0.02)
    for tensors in load_file(files[2]), load_checkpoint(tmp_path / "bfloat16").tensors:  # itself not rounded
        assert any((one != one.bfloat16().float()).any() for one in tensors.values())


def test_a_cpu_that_emulates_bfloat16_computes_in_float32_and_says_so(
    show: Path,
    tiny_wan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("toolkit.training.assemble.fast_dtype", lambda device: torch.float32)
    files = []
    for precision in ("float32", "bfloat16"):
        memory = Memory(precision=precision)  # type: ignore[arg-type]
        files.append(train([show], tmp_path / precision, model=str(tiny_wan), steps=2, memory=memory))
    assert load_lora(files[0]).tensors.keys() == load_lora(files[1]).tensors.keys()
    for name, value in load_file(files[0]).items():
        assert torch.equal(value, load_file(files[1])[name])
    assert "would emulate bfloat16" in capsys.readouterr().err


def test_previews_are_sampled_while_training(show: Path, tiny_wan: Path, tmp_path: Path) -> None:
    train(
        [show],
        tmp_path,
        model=str(tiny_wan),
        steps=2,
        watch=Watch(sample_prompts=("a red cat", "Pixo jumps"), sample_every=1, sample_steps=2),
    )
    made = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "samples").rglob("*.mp4"))
    assert made == [f"samples/step_{step:06d}/{i:02d}.mp4" for step in range(3) for i in range(2)]
    info = probe(tmp_path / made[0])
    assert (info.num_frames, info.height, info.width) == (9, 32, 48)
    assert "AI-generated" in info.metadata["comment"]
    videos = [(tmp_path / name).read_bytes() for name in made]
    assert len(set(videos)) > 2  # they change while it learns


def test_a_nan_loss_stops_the_run(show: Path, tiny_wan: Path, tmp_path: Path) -> None:
    """The state of the last good step is still there, and still what it was."""
    settings: dict[str, Any] = {
        "model": str(tiny_wan),
        "batches": Batches(4, holdout=0),
        "watch": Watch(save_every=1),
    }
    train([show], tmp_path, steps=2, **settings)
    before = (tmp_path / "state.safetensors").read_bytes()
    folder = show / "cache" / "tiny-wan"
    good = load_samples(folder)[0]
    bad = good.latents.clone()
    bad[0, 0, 0, 0] = torch.nan
    save_sample(folder, type(good)(good.id, bad, good.prompt_embeds, good.text, good.fingerprint))
    try:
        with pytest.raises(CastmixError, match=r"step 3: the loss is nan .*last good state is kept in"):
            train([show], tmp_path, steps=4, **settings)
    finally:
        save_sample(folder, good)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_wrong_training_arguments_are_errors(show: Path, world: Path, tiny_wan: Path, tmp_path: Path) -> None:
    model = str(tiny_wan)
    with pytest.raises(CastmixError, match="preserve_share 1 leaves no room"):
        train([show], tmp_path, model=model, batches=Batches(preserve=world, preserve_share=1.0))
    with pytest.raises(CastmixError, match="caption_dropout must be between 0 and 1, got 7"):
        train([show], tmp_path, model=model, batches=Batches(caption_dropout=7))
    with pytest.raises(CastmixError, match="batch_size must be at least 1, got 0"):
        train([show], tmp_path, model=model, batches=Batches(batch_size=0))
    with pytest.raises(CastmixError, match="holdout 9 leaves nothing to train on"):
        train([show], tmp_path, model=model, batches=Batches(holdout=9))
    with pytest.raises(CastmixError, match="has no clips"):
        train([tmp_path], tmp_path, model=model)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_train_the_same_lora_as_one(
    finished: Path, show: Path, world: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    script = tmp_path / "two.py"
    script.write_text(script_of(show, world, tiny_wan, tmp_path))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
    ]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = load_lora(finished), load_lora(tmp_path)
    for name, (a, b) in one.tensors.items():
        assert torch.allclose(two.tensors[name][0], a, atol=1e-3)
        assert torch.allclose(two.tensors[name][1], b, atol=1e-3)


def test_learning_rates() -> None:
    optim = Optim(lr=1.0, warmup=4, schedule="cosine")
    rates = [learning_rate(optim, step, 12) for step in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[8] == pytest.approx(0.5)
    assert learning_rate(Optim(lr=2.0, warmup=0), 0, 1) == 2.0


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interrupt.stop_signals() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert signal.getsignal(signal.SIGTERM) == before  # a second one ends the program
    assert signal.getsignal(signal.SIGTERM) == before


def test_tokens_of_captions_are_saved_in_the_lora(show: Path, tiny_wan: Path, tmp_path: Path) -> None:
    made = {"<pixo>": Token("cat", "output", torch.ones(24))}
    save_lora(
        Lora({}, tokens_metadata(made), {"<pixo>": torch.ones(24)}), file := tmp_path / "tokens.safetensors"
    )
    settings: dict[str, Any] = {"model": str(tiny_wan), "steps": 2, **SMALL}
    spoken = {**settings, "adapter": Adapter(rank=2, alpha=2, tokens=file)}
    with pytest.raises(CastmixError, match="no caption has one of the tokens <pixo>"):
        train([show], tmp_path / "a", **spoken)
    other = shutil.copytree(show, tmp_path / "show")
    for clip in read_clips(other):
        write_clip(other, dataclasses.replace(clip, text="a <pixo> jumps"))
    write_index(other)
    cache(other, model=str(tiny_wan))
    lora = load_lora(train([other], tmp_path / "b", **spoken))
    assert torch.equal(lora.tokens["<pixo>"], torch.ones(24))
    for clip in read_clips(other):
        write_clip(other, dataclasses.replace(clip, text="a cat jumps"))
    write_index(other)
    cache(other, model=str(tiny_wan))
    noun = load_lora(train([other], tmp_path / "c", **settings))  # the token is not its noun
    assert any(not torch.equal(b, noun.tensors[name][1]) for name, (_, b) in lora.tensors.items())


def motion(**settings: Any) -> Objective:
    return Objective("motion", motion=Motion(**settings))


def test_a_motion_run_is_trained_and_continued(
    show: Path, world: Path, tiny_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
        "model": str(tiny_wan),
        **SMALL,
        "batches": Batches(batch_size=2, holdout=1, preserve=world),
        "objective": motion(appearance="a red cat and a dog", debiased=1.0),
        "adapter": Adapter(rank=2, targets=("motion-qk",), heads="temporal"),
    }
    path = train([show], tmp_path / "a", steps=4, **settings)
    said = capsys.readouterr().err
    assert "the appearance prompt explains" in said
    assert "heads attend along time" in said
    lora = load_lora(path)
    assert {name.split(".", 2)[2] for name in lora.tensors} == {"attn1.to_q", "attn1.to_k"}
    assert lora.metadata["castmix.objective"] == "motion"
    heads = json.loads(lora.metadata["castmix.heads"])
    for name, (a, b) in lora.tensors.items():
        change = (b @ a).view(2, 16, -1).flatten(1).any(1).tolist()
        assert change == [head in heads[name.split(".")[1]] for head in (0, 1)]
    train([show], tmp_path / "b", steps=2, **settings)
    assert train([show], tmp_path / "b", steps=4, **settings).read_bytes() == path.read_bytes()
    assert "explained:" in (tmp_path / "a" / "run.yaml").read_text()
    changed = {**settings, "objective": motion(appearance="a red cat and a dog", debiased=1.0, omega=0.1)}
    with pytest.raises(CastmixError, match=r"motion.omega was 0.5 and is 0.1"):
        train([show], tmp_path / "b", steps=6, **changed)
    with pytest.raises(CastmixError, match="objective was 'motion' and is None"):
        train([show], tmp_path / "b", steps=6, **{**settings, "objective": Objective()})
    with pytest.raises(CastmixError, match=r"no tokens for them: add --motion\.tokens"):
        train([show], tmp_path / "c", **{**settings, "objective": motion()})
    with pytest.raises(CastmixError, match=r"motion.omega must be 0 or more, got -1"):
        train([show], tmp_path / "c", **{**settings, "objective": motion(omega=-1)})
