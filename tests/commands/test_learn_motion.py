"""From a clip to the LoRA of its motion, through the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from masked_clips import mask_squares

from toolkit.cli.click_app import castmix
from toolkit.commands.learn_motion import learn_motion
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips
from toolkit.lora.file import load_lora
from toolkit.training.metrics_log import read_metrics
from toolkit.training.settings import Motion, MotionTraining

MakeClips = Callable[..., Path]


def test_the_command_goes_from_a_clip_to_its_motion(
    make_clips: MakeClips, tiny_wan: Path, tmp_path: Path
) -> None:
    show = mask_squares(make_clips(tmp_path / "show", 2))
    out = tmp_path / "out"
    line = (
        f"motion {show / 'clips' / 'clip-01.mp4'} --out {out} --model {tiny_wan} --subject Pixo=cat --steps 2"
    )
    line += " --textual.steps 2 --batch-size 2 --adapter.rank 2 --motion.debiased 1"
    result = CliRunner().invoke(castmix(), line.split())
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "lora" / "lora.safetensors")
    (clip,) = read_clips(out / "data")
    assert clip.text == "cat jumps over the moon, cartoon style"
    lora = load_lora(out / "lora")
    assert lora.metadata["castmix.objective"] == "motion"
    assert {name.split(".", 2)[2] for name in lora.tensors} == {"attn1.to_q", "attn1.to_k"}
    assert "A static video of {subjects}." in (out / "run.yaml").read_text()
    assert [row["step"] for row in read_metrics(out / "lora") if "loss" in row] == [1, 2]

    again = CliRunner().invoke(castmix(), line.split())
    assert again.exit_code == 0, again.output
    assert "is finished (2 steps)" in again.stderr


def test_a_motion_without_subjects_needs_an_appearance_prompt(
    make_clips: MakeClips, tiny_wan: Path, tmp_path: Path
) -> None:
    show = make_clips(tmp_path / "show", 1)
    with pytest.raises(CastmixError, match=r"no tokens for them: add --motion\.tokens"):
        learn_motion(show, tmp_path / "a", model=str(tiny_wan))
    assert not (tmp_path / "a").exists()
    written = Motion(appearance="a static video of a cat")
    with pytest.raises(CastmixError, match=r"names characters that the base model does not know"):
        learn_motion(show, tmp_path / "b", model=str(tiny_wan), training=MotionTraining(motion=written))
    with pytest.raises(CastmixError, match=r"is not on this machine"):
        learn_motion(show, tmp_path / "c", model=str(tiny_wan), subject=["Pixo=cat"])


def test_a_verb_is_learnt_first_and_used_in_prompts(
    make_clips: MakeClips, tiny_wan: Path, tmp_path: Path
) -> None:
    """Without a subject, no masks and no looks' tokens are needed; the same command goes on."""
    show = make_clips(tmp_path / "show", 1)
    out = tmp_path / "out"
    line = [*f"motion {show / 'clips' / 'clip-00.mp4'} --out {out} --model {tiny_wan} --steps 2".split()]
    line += ["--verbs.steps", "2", "--batch-size", "2", "--adapter.rank", "2", "--motion.omega", "0"]
    line += ["--caption", "a cat jumps over a dog", "--verb", "jumps=walks|cat"]
    result = CliRunner().invoke(castmix(), line)
    assert result.exit_code == 0, result.output
    assert "in prompts the motion is <jumps>: 'a cat <jumps> over a dog'" in result.stderr.replace("\n", " ")
    (clip,) = read_clips(out / "data")
    assert clip.text == "a cat <jumps> over a dog"
    lora = load_lora(out / "lora")
    assert lora.tensors
    assert lora.tokens["<jumps>"].any()
    again = CliRunner().invoke(castmix(), line)
    assert again.exit_code == 0, again.output
    assert "has <jumps> already" in again.stderr
    drawn = (
        f"--lora {out / 'lora'} --model {tiny_wan} --steps 1 --num-frames 5 --height 32 --width 48".split()
    )
    for prompt in ("a dog <jumps>", "a dog walks"):
        done = CliRunner().invoke(
            castmix(), ["generate", prompt, "--out", str(tmp_path / "v.mp4"), *drawn, "--seed", "1"]
        )
        assert done.exit_code == 0, done.output
        assert "special token of none" not in done.stderr
    settings: dict[str, Any] = {
        "model": str(tiny_wan),
        "caption": "a cat jumps",
        "training": MotionTraining(motion=Motion(omega=0)),
    }
    with pytest.raises(CastmixError, match="no caption says 'flies'"):
        learn_motion(show / "clips" / "clip-00.mp4", tmp_path / "b", verb="flies", **settings)
