"""Textual inversion: what is learned from, that it is learned, and that it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked_clips import mask_squares

from toolkit.commands.cache import cache
from toolkit.commands.learn_tokens import learn_tokens, parse_subjects, parse_verbs, spoken_as
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.plain_words import class_nouns
from toolkit.lora.special_tokens import encode_prompts, read_tokens
from toolkit.models.registry import find_model, load_denoiser, load_encoders
from toolkit.training.cutout import FILL, cut_out
from toolkit.training.settings import Sigma, Textual, Verb
from toolkit.training.textual_inversion import TextualInversion

MakeClips = Callable[..., Path]
SHORT = Textual(steps=6, lr=0.05, batch_size=2, prompt="a {subject} jumps")


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory, make_clips: MakeClips) -> Path:
    return mask_squares(make_clips(tmp_path_factory.mktemp("invert") / "show", 2))


def test_the_cutout_is_the_character_on_white(show: Path) -> None:
    cut = cut_out(read_clips(show), "Pixo")
    assert cut.frame > 0  # in frame 0 it touches the left edge
    assert cut.picture.shape == (32, 48, 3)
    inside = cut.mask > 0.99
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert len(ys) == len(xs) == round(FILL * 32)
    assert abs(ys.mean() - 15.5) <= 0.5
    assert abs(xs.mean() - 23.5) <= 0.5
    assert (cut.picture[cut.mask == 0] == 255).all()
    colour = np.median(cut.picture[inside], 0)
    off = np.abs(cut.picture[inside].astype(int) - colour).max(-1)
    assert np.percentile(off, 80) < 30  # the square alone; colours bleed at its edge, as mp4 has it
    with pytest.raises(CastmixError, match=r"no clip has an accepted mask of 'Mimi' \(masks: Pixo\)"):
        cut_out(read_clips(show), "Mimi")


@pytest.mark.parametrize("kind", ["output", "input"])
def test_a_token_is_learnt_and_kept(
    show: Path, tiny_wan: Path, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"model": str(tiny_wan), "textual": dataclasses.replace(SHORT, kind=kind)}
    path = learn_tokens(show, tmp_path / "t.safetensors", subject=["Pixo=cat"], **settings)
    assert "loss on its picture" in capsys.readouterr().err
    token = read_tokens([load_lora(path)])["<pixo>"]
    model = str(tiny_wan)
    inversion = TextualInversion(
        find_model(model), load_encoders(model), load_denoiser(model), SHORT, Sigma(), 0
    )
    cutout, noun = cut_out(read_clips(show), "Pixo"), dataclasses.replace(token, vector=0 * token.vector)
    assert inversion.picture_loss("<pixo>", token, cutout) < inversion.picture_loss("<pixo>", noun, cutout)
    assert (token.noun, token.kind) == ("cat", kind)
    assert token.vector.any()
    assert (tmp_path / "t.pixo.png").is_file()
    assert (tmp_path / "t.run.yaml").is_file()
    bytes_before = path.read_bytes()
    learn_tokens(show, path, subject=["Pixo=cat"], **settings)
    assert "has <pixo> already" in capsys.readouterr().err
    learn_tokens(show, path, subject=["Pixo=cat"], restart=True, **settings)
    assert path.read_bytes() == bytes_before


def test_changed_settings_retrain_tokens_and_keep_the_layers(
    show: Path, tiny_wan: Path, tmp_path: Path
) -> None:
    layers = {"blocks.0.attn1.to_q": (torch.ones(1, 32), torch.ones(32, 1))}
    save_lora(Lora(layers, {"castmix.cast": '["Pixo"]'}), tmp_path / "lora.safetensors")
    settings: dict[str, Any] = {"model": str(tiny_wan), "lora": tmp_path / "lora.safetensors"}
    one = learn_tokens(show, tmp_path / "a.safetensors", subject=["Pixo=cat"], textual=SHORT, **settings)
    first = load_lora(one)
    assert torch.equal(first.tensors["blocks.0.attn1.to_q"][0], torch.ones(1, 32))
    assert first.metadata["castmix.cast"] == '["Pixo"]'
    two = learn_tokens(show, one, subject=["Pixo=dog"], textual=SHORT, **settings)
    assert read_tokens([load_lora(two)])["<pixo>"].noun == "dog"


def test_wrong_subjects_are_errors(show: Path, tmp_path: Path) -> None:
    assert parse_subjects(["Mr. Bean = a man", "sub1=dog"]) == {
        "<mr-bean>": ("Mr. Bean", "a man"),
        "<sub1>": ("sub1", "dog"),
    }
    for wrong, why in (
        (["Pixo"], "NAME=NOUN, such as Pixo=star; got 'Pixo'"),
        ([], "nothing to learn"),
        (["Pixo=a", "pixo=b"], "would both be <pixo>"),
    ):
        with pytest.raises(CastmixError, match=why):
            learn_tokens(show, tmp_path / "t.safetensors", subject=wrong)
    with pytest.raises(CastmixError, match=r"tokens are written as \.safetensors"):
        learn_tokens(show, tmp_path / "t", subject=["Pixo=a"])
    with pytest.raises(CastmixError, match=r"must have \{subject\} once"):
        learn_tokens(
            show, tmp_path / "t.safetensors", subject=["Pixo=a"], textual=Textual(prompt="a picture")
        )
    with pytest.raises(CastmixError, match=r"textual.steps must be above 0"):
        learn_tokens(show, tmp_path / "t.safetensors", subject=["Pixo=a"], textual=Textual(steps=0))


def test_a_verb_is_learnt_and_kept(
    make_clips: MakeClips, tiny_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the words that explain the clips best, a vector for each of their tokens; again is nothing."""
    clips, model = make_clips(tmp_path / "show", 2), str(tiny_wan)
    cache(clips, model=model)
    spoken = [clip.text for clip in read_clips(clips)]
    phrase = "jumps"
    assert all(text.count(phrase) == 1 for text in spoken)
    settings: dict[str, Any] = {"model": model, "verbs": Verb(steps=6, batch_size=2, repeat=2)}
    path = learn_tokens(clips, tmp_path / "v.safetensors", verb=["jumps=walks|cat"], **settings)
    told = capsys.readouterr().err
    (line,) = (line for line in told.splitlines() if "<jumps> starts from" in line)
    errors = {word: float(line.split(f"'{word}' ")[1][:6]) for word in ("walks", "cat")}
    nearest = min(errors, key=lambda word: errors[word])
    token = read_tokens([load_lora(path)])["<jumps>"]
    assert (token.noun, token.kind, token.verb) == (f"{nearest} {nearest}", "output", True)
    encoders = load_encoders(model)
    (positions,) = encoders.token_positions(token.noun, [(0, len(token.noun))])
    assert token.vector.shape == (len(positions), 24)
    assert len({tuple(row.tolist()) for row in token.vector}) == len(positions)
    # its effect is what was learned: a lower loss on the same clips than with the words that it started from
    end = told.split("loss on its clips ")[1]
    before, after = float(end[:6]), float(end.split(f"as {nearest!r}, ")[1][:6])
    assert after < before
    # in a prompt each of the noun's tokens has its own
    embeds = encode_prompts(encoders, ["a cat <jumps> high"], [load_lora(path)])[0]
    plainly = encoders.encode_text([f"a cat {token.noun} high"])[0]
    at = encoders.token_positions(f"a cat {token.noun} high", [(6, 6 + len(token.noun))])[0]
    torch.testing.assert_close((embeds - plainly)[list(at)], token.vector)
    moved = (embeds - plainly).abs().sum(1).nonzero()[:, 0].tolist()
    assert moved == list(at)
    assert class_nouns([load_lora(path)]) == {}  # it is nobody
    bytes_before = path.read_bytes()
    learn_tokens(clips, path, verb=["jumps=walks|cat"], **settings)
    assert "has <jumps> already" in capsys.readouterr().err
    learn_tokens(clips, path, verb=["jumps=walks|cat"], restart=True, **settings)
    assert path.read_bytes() == bytes_before


def test_wrong_verbs_are_errors(make_clips: MakeClips, tiny_wan: Path, tmp_path: Path) -> None:
    assert parse_verbs(["leans back = sways | ducks", "hops"]) == {
        "<leans-back>": ["leans back", "sways", "ducks"],
        "<hops>": ["hops", "hops"],
    }
    for wrong, why in (
        (["=a"], "a verb is PHRASE=WORDS"),
        (["a=b|"], "a verb is PHRASE=WORDS"),
        (["Hops", "hops"], "two verbs would be <hops>"),
    ):
        with pytest.raises(CastmixError, match=why):
            parse_verbs(wrong)
    assert spoken_as("a cat hops", "<hops>", "hops") == spoken_as("a cat <hops>", "<hops>", "hops")
    assert spoken_as("a cat hopss", "<hops>", "hops") == ""
    with pytest.raises(CastmixError, match="'hops' 2 times: once is expected"):
        spoken_as("a cat hops and hops", "<hops>", "hops")
    clips, model = make_clips(tmp_path / "show", 1), str(tiny_wan)
    cache(clips, model=model)
    with pytest.raises(CastmixError, match=r"no caption says 'flies', such as '"):
        learn_tokens(clips, tmp_path / "v.safetensors", verb=["flies"], model=model)
    with pytest.raises(CastmixError, match=r"verbs\.repeat must be above 0, got 0"):
        learn_tokens(clips, tmp_path / "v.safetensors", verb=["jumps"], model=model, verbs=Verb(repeat=0))
    with pytest.raises(CastmixError, match="nothing to learn: say --subject"):
        learn_tokens(clips, tmp_path / "v.safetensors", model=model)
    with pytest.raises(CastmixError, match="<pixo> would be a subject and a verb"):
        learn_tokens(clips, tmp_path / "v.safetensors", subject=["Pixo=cat"], verb=["pixo=a"], model=model)
