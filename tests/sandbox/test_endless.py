"""Pretraining without an end: it goes on exactly after any stop, and says how far it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.core.errors import CastmixError
from toolkit.models.registry import find_model
from toolkit.sandbox.base_model import background, clips, endless, history, warm_start
from toolkit.sandbox.base_model.architecture import TEXT_LENGTH
from toolkit.sandbox.base_model.clips import ClipWindow, token_ids
from toolkit.sandbox.base_model.pretrain import pretrain
from toolkit.sandbox.base_model.previews import tokenizer
from toolkit.sandbox.base_model.quick_score import SCORES, still_prompts
from toolkit.sandbox.base_model.status import report
from toolkit.sandbox.base_model.vae_roundtrip import psnr
from toolkit.sandbox.world import world

SMALL_RUN = """
import sys
from pathlib import Path
from toolkit.sandbox.base_model import clips, endless
clips.SHARD, clips.ClipWindow.WINDOW, clips.ClipWindow.FIRST, clips.ClipWindow.STEPS = 3, 2, 1, 3
endless.BATCH_SIZE, endless.SAVE_EVERY, endless.LOSS_EVERY = 2, 2, 2
endless.train(Path(sys.argv[1]), vae_steps=0, dit_steps=int(sys.argv[2]), prompts=0, fast=False)
"""
STEPS = 8


def prepare_run(folder: Path) -> Path:
    """Make a folder whose VAE is trained, so that a run goes on with the DiT."""
    folder.mkdir()
    vae = warm_start.load_vae(warm_start.SHIPPED)
    torch.save(vae.state_dict(), folder / "vae.pt")
    (folder / "start.json").write_text(json.dumps({"weights": "base", "steps": 0, "samples_a_step": 2}))
    return folder


def small_run(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen([sys.executable, "-c", SMALL_RUN, str(folder), str(STEPS)], stderr=log)


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        rows = history.read(folder / "loss.jsonl")
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare_run(tmp_path_factory.mktemp("whole") / "run")
    assert small_run(folder).wait(timeout=300) == 0, (folder / "log.txt").read_text()
    return folder


def assert_equal_states(one: Path, other: Path) -> None:
    a, b = (torch.load(folder / "dit.state", weights_only=True) for folder in (one, other))
    assert a["step"] == b["step"] == STEPS
    for kind in ("model", "average"):
        assert all(torch.equal(a[kind][name], b[kind][name]) for name in a[kind])


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_reaches_the_same_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    folder = prepare_run(tmp_path / "run")
    for step, number in ((2, signal.SIGKILL), (4, signal.SIGTERM), (6, signal.SIGKILL)):
        process = small_run(folder)
        wait_for_step(folder, step)
        process.send_signal(number)
        process.wait(timeout=60)
        assert torch.load(folder / "dit.state", weights_only=True)["step"] >= step - 2 * (
            number == signal.SIGKILL
        )
    assert small_run(folder).wait(timeout=300) == 0
    assert_equal_states(uninterrupted, folder)
    assert [row["step"] for row in history.read(folder / "loss.jsonl")] == [2, 4, 6, 8]


@pytest.mark.slow
def test_clips_that_are_lost_are_drawn_again(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = sorted((uninterrupted / "clips").iterdir())
    assert [path.name for path in shards] == ["shard-00001.pt", "shard-00002.pt"]  # the window has moved
    monkeypatch.setattr(clips, "SHARD", 3)
    clips.draw_shard(2, warm_start.load_vae(warm_start.SHIPPED), tmp_path / "again.pt")
    one, other = (torch.load(path, weights_only=True) for path in (shards[1], tmp_path / "again.pt"))
    assert one["captions"] == other["captions"]
    assert torch.equal(one["latents"], other["latents"])


def test_the_window_grows_then_moves() -> None:
    window = ClipWindow(Path("unused"), None, None)  # type: ignore[arg-type]
    assert window.shards_of(0) == window.shards_of(window.STEPS - 1) == range(window.FIRST)
    assert window.shards_of(window.STEPS) == range(window.FIRST + 1)
    late = window.shards_of(100 * window.STEPS)
    assert len(late) == window.WINDOW
    assert window.shards_of(101 * window.STEPS) == range(late.start + 1, late.stop + 1)
    later_run = ClipWindow(Path("unused"), None, None, 100 * window.STEPS)  # type: ignore[arg-type]
    assert later_run.shards_of(100 * window.STEPS) == range(100, 100 + window.FIRST)
    assert later_run.shards_of(300 * window.STEPS) == window.shards_of(300 * window.STEPS)


def test_the_warm_start_keeps_what_the_shipped_base_knows() -> None:
    from transformers import AutoTokenizer

    words = tokenizer()
    old = AutoTokenizer.from_pretrained(warm_start.SHIPPED / "tokenizer")
    assert len(words) > len(old)
    model = warm_start.load_text_to_video(warm_start.SHIPPED, words)
    text = "a striped red bear with a hat jumps in the meadow, cartoon style"
    shipped = warm_start.load_text_to_video(warm_start.SHIPPED, old)
    with torch.no_grad():
        one = model.text_encoder(token_ids(words, [text])).last_hidden_state
        other = shipped.text_encoder(token_ids(old, [text])).last_hidden_state
    torch.testing.assert_close(one, other)
    for name, value in shipped.transformer.state_dict().items():
        assert torch.equal(value, model.transformer.state_dict()[name])


def test_weights_are_saved_as_a_model_folder_that_a_new_run_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tokenizer()
    model = warm_start.load_text_to_video(warm_start.SHIPPED, words)
    vae = warm_start.load_vae(warm_start.SHIPPED)
    folder = tmp_path / "base_in_training"
    past = {"scores.jsonl": [{"step": 1000, "colour": 0.5}]}
    warm_start.save_weights(folder, model, vae, {"steps": 1234, "history": past})
    assert next(model.parameters()).dtype == next(vae.parameters()).dtype == torch.float32  # not converted
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 16_000_000
    assert find_model(str(folder)).text_length == TEXT_LENGTH
    assert warm_start.training_facts(folder) == {"steps": 1234, "history": past}
    assert warm_start.training_facts(warm_start.SHIPPED) == {"steps": 0, "history": {}}
    monkeypatch.setattr(warm_start, "IN_TRAINING", tmp_path / "none")
    assert warm_start.newest_weights() == warm_start.SHIPPED
    monkeypatch.setattr(warm_start, "IN_TRAINING", folder)
    assert warm_start.newest_weights() == folder
    monkeypatch.setattr(warm_start, "SHIPPED", tmp_path / "base")  # the folder of its siblings
    run = tmp_path / "run"
    run.mkdir()
    assert endless._start_facts(run, 7) == (folder, 1234, 7)
    assert history.read(run / "scores.jsonl") == past["scores.jsonl"]  # the history goes on
    monkeypatch.setattr(warm_start, "IN_TRAINING", tmp_path / "none")
    assert endless._start_facts(run, 8) == (folder, 1234, 7)  # as it started
    again = warm_start.load_text_to_video(folder, words)
    for name, value in model.transformer.state_dict().items():
        torch.testing.assert_close(again.transformer.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_captions_that_are_too_long_are_refused() -> None:
    with pytest.raises(CastmixError, match=r"has .* tokens, at most 64"):
        token_ids(tokenizer(), ["a " * 80])


def test_history_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "loss.jsonl"
    for step in (2, 4, 6):
        history.append(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 8')  # killed while writing
    assert [row["step"] for row in history.read(path)] == [2, 4, 6]
    history.go_on_from(path, 4)
    assert [row["step"] for row in history.read(path)] == [2, 4]


def test_only_one_process_trains_in_a_folder_and_a_killed_one_does_not_block(tmp_path: Path) -> None:
    assert background.running(tmp_path) is None
    code = "import sys, time; from pathlib import Path; from toolkit.sandbox.base_model import background\n"
    code += "with background.only_process(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        assert background.running(tmp_path) == process.pid
        assert f"already running: process {process.pid}" in background.start(tmp_path, {})
        with pytest.raises(CastmixError, match="another process trains"), background.only_process(tmp_path):
            pass
        process.kill()
    assert background.running(tmp_path) is None
    with background.only_process(tmp_path):
        assert background.running(tmp_path) == os.getpid()


def test_a_process_that_ends_at_once_is_an_error_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = tmp_path / "python"
    shell.write_text("#!/bin/sh\necho out of luck\nexit 3\n")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    with pytest.raises(CastmixError, match=r"ended at once(.|\n)*out of luck"):
        background.start(tmp_path, {})


def test_the_status_has_numbers_and_a_plot(tmp_path: Path) -> None:
    (tmp_path / "start.json").write_text(json.dumps({"weights": "base", "steps": 0, "samples_a_step": 32}))
    torch.save({"step": 220}, tmp_path / "dit.state")
    for step, loss in ((100, 0.5), (200, 0.4)):
        row = {"step": step, "loss": loss, "auxiliary": 1.0, "rate": 12.5, "time": time.time()}
        history.append(tmp_path / "loss.jsonl", row)
    for step, value in ((0, 0.3), (1000, 0.6), (2000, 0.55)):
        scores = dict.fromkeys(SCORES, value)
        if not step:
            del scores["triples"]  # a score that was added later
        history.append(tmp_path / "scores.jsonl", {"step": step, "prompts": 24, **scores})
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / "dit-002000.png").write_bytes(b"")
    text = report(tmp_path)
    for part in (
        "not running",
        "7,040 (220 steps)",
        "0.4000 at step 200, before 0.5000",
        "12.5 samples a second",
        "dit-002000.png",
    ):
        assert part in text
    (binding,) = [line for line in text.splitlines() if line.split()[0] == "binding"]
    assert binding.split()[1:4] == ["0.30", "0.60", "0.55"]
    (triples,) = [line for line in text.splitlines() if line.split()[0] == "triples"]
    assert triples.split()[1:4] == ["0.60", "0.60", "0.55"]
    with Image.open(tmp_path / "history.png") as picture:
        assert picture.width > 800


def test_the_status_of_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="has no training of the base: start one"):
        pretrain(status=tmp_path)


def test_broken_files_are_named_and_a_failure_is_shown_later(tmp_path: Path) -> None:
    prepare_run(tmp_path / "run")
    folder = tmp_path / "run"
    (folder / "dit.state").write_text("garbage")
    with pytest.raises(CastmixError, match=r"dit.state is not a training state"):
        report(folder)
    with (folder / "log.txt").open("w") as log:
        code = [sys.executable, "-m", background.__name__, str(folder), '{"vae_steps": 1}']
        assert subprocess.run(code, stderr=log, stdout=log, check=False).returncode != 0
    (folder / "dit.state").unlink()
    (line,) = [line for line in report(folder).splitlines() if line.split()[0] == "failed"]
    assert "dit.state is not a training state" in line
    (folder / "start.json").write_text("{}")
    with pytest.raises(CastmixError, match=r"start.json does not say how the run started"):
        report(folder)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CastmixError, match="cannot be written"):
        background.start(tmp_path / "file", {})


@pytest.mark.slow
def test_a_run_whose_steps_are_done_ends_at_once(uninterrupted: Path) -> None:
    before = (uninterrupted / "dit.state").read_bytes()
    assert small_run(uninterrupted).wait(timeout=120) == 0
    assert (uninterrupted / "dit.state").read_bytes() == before


@pytest.mark.slow
def test_a_state_without_scores_is_not_taken_for_the_start(uninterrupted: Path, tmp_path: Path) -> None:
    for name in ("start.json", "vae.pt", "dit.state"):
        shutil.copy(uninterrupted / name, tmp_path / name)
    run = endless.Run(tmp_path, 0, threading.Event(), 0, False)
    vae = warm_start.load_vae(warm_start.SHIPPED)
    endless._initial_model(run, warm_start.SHIPPED, 0, vae)
    assert not (tmp_path / "base").exists()  # step 8 is not one that is scored
    endless._initial_model(run, warm_start.SHIPPED, STEPS - 250, vae)  # now it is
    saved = warm_start.load_text_to_video(tmp_path / "base", tokenizer()).transformer.state_dict()
    average = history.load_state(tmp_path / "dit.state")["average"]  # type: ignore[index]
    for name, value in saved.items():
        torch.testing.assert_close(value, average[f"transformer.{name}"], atol=1e-3, rtol=1e-3)
    assert warm_start.training_facts(tmp_path / "base")["steps"] == STEPS


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="--out is missing"):
        pretrain()
    with pytest.raises(CastmixError, match="dit_steps is -3: expected 1 or more"):
        pretrain(tmp_path, background=True, dit_steps=-3)
    for settings in ({"part": "vae"}, {"device": "cuda"}):
        with pytest.raises(CastmixError, match="leave out --part and --device"):
            pretrain(tmp_path, background=True, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_creatures_that_stand_still_look_the_same_in_the_first_and_the_last_frame() -> None:
    for text, scenario in still_prompts(8):
        assert "stands still" in text
        (actor,) = world.arrange(scenario.actors, np.random.default_rng(0))
        frames, _ = world.draw([actor], scenario.scene, scenario.style)
        assert psnr(frames[:1], frames[-1:]) > 35  # the score measures the drawing, not the motion
