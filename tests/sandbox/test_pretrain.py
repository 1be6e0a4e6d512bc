"""How the sandbox base is made: its latents, tokens and resumable training, on a few clips."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from toolkit.core.errors import CastmixError
from toolkit.models.pixels import frames_to_video
from toolkit.models.registry import find_model, load_denoiser
from toolkit.sandbox.base_model import clips as clips_module
from toolkit.sandbox.base_model import train_dit as train_dit_module
from toolkit.sandbox.base_model import vae_stage
from toolkit.sandbox.base_model.architecture import TEXT_LENGTH, new_vae, vae_decode, vae_encode
from toolkit.sandbox.base_model.clips import (
    ATTRIBUTE_VALUES,
    MAX_CREATURES,
    Latents,
    attribute_labels,
    token_labels,
)
from toolkit.sandbox.base_model.linear_codec import LinearCodec, fit_linear, fit_to_latents, to_blocks
from toolkit.sandbox.base_model.muon import Muon, orthogonalise
from toolkit.sandbox.base_model.pretrain import pretrain
from toolkit.sandbox.base_model.previews import tokenizer
from toolkit.sandbox.base_model.train_dit import Schedule, TextToVideo, sample_batch, train_dit
from toolkit.sandbox.base_model.train_vae import (
    ConvMuon,
    channels_last,
    first_and_other_frames,
    psnr,
    train_vae,
)
from toolkit.sandbox.world import diet, moves, population
from toolkit.sandbox.world.actions import ACTIONS
from toolkit.sandbox.world.shows import named_looks

CLIPS = 8


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    looks = population.generic_looks(list(named_looks().values()))
    cast = population.pretraining_cast(looks)
    return np.stack([population.sample_scenario(10**9 + i, looks, cast).draw()[0] for i in range(CLIPS)])


@pytest.fixture(scope="module")
def codec(frames: np.ndarray) -> LinearCodec:
    return fit_linear(frames, 48)


def test_linear_latents_have_the_bases_shape_and_are_normalised(
    frames: np.ndarray, codec: LinearCodec
) -> None:
    latents = codec.encode(torch.from_numpy(frames))
    assert latents.shape == (CLIPS, 48, 5, 8, 12)
    assert latents.mean().abs() < 0.05
    assert latents.square().mean().item() == pytest.approx(1, abs=0.1)
    strength = latents.var((0, 2, 3, 4))
    assert (strength[:-1] >= strength[1:] * 0.99).all()  # strong channels first


def test_strong_latent_channels_carry_the_picture(frames: np.ndarray, codec: LinearCodec) -> None:
    video = torch.from_numpy(frames).float() / 127.5 - 1
    brightness = video[:, 0].reshape(CLIPS, 8, 8, 12, 8, 3).mean((2, 4, 5)).flatten()
    first = codec.encode(torch.from_numpy(frames))[:, 0, 0].flatten()
    assert abs(np.corrcoef(first, brightness)[0, 1]) > 0.9


def test_encoding_in_two_chunks_equals_the_vae() -> None:
    torch.manual_seed(0)
    vae = new_vae().eval()
    video = torch.rand(1, 3, 17, 32, 48) * 2 - 1
    with torch.no_grad():
        own = vae.encode(video).latent_dist.mode()
        torch.testing.assert_close(vae_encode(vae, video), own, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            vae_decode(vae, own).clamp(-1, 1), vae.decode(own).sample, atol=1e-5, rtol=0
        )


def test_a_word_is_one_token_in_prose_and_in_tags_and_names_are_spelled(tmp_path: Path) -> None:
    words = tokenizer()
    words.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    tagged = "[Character: Pixo], jumps in the meadow. [Character: Rufus], spins. [scene-style:cartoon]"
    prose = "a red star with a hat jumps in the meadow, cartoon style"
    assert again(tagged).input_ids == words(tagged).input_ids
    for word in ("jumps", "meadow", "cartoon"):
        token = words.convert_tokens_to_ids(word)
        assert token != words.unk_token_id
        assert token in words(tagged).input_ids
        assert token in words(prose).input_ids
    assert words.unk_token_id not in words("Zoë is x27, [Character: Quax]!".replace("ë", "e")).input_ids
    assert [t for t in words.tokenize("Pixo") if t != "▁"] == list("Pixo")


def test_captions_of_three_characters_fit_the_text_length() -> None:
    longest = max(ACTIONS, key=len)
    text = " ".join(f"[Character: {name}], {longest} in the meadow." for name in ("Rufus", "Pixo", "Olga"))
    assert len(tokenizer()(text + " [scene-style:realistic]").input_ids) <= TEXT_LENGTH


def clips(latents: torch.Tensor, tokens: int) -> Latents:
    labels = torch.arange(CLIPS * tokens).view(CLIPS, tokens).remainder(4).to(torch.uint8)
    return Latents(
        latents,
        [""] * CLIPS,
        labels,
        torch.zeros(CLIPS, MAX_CREATURES, len(ATTRIBUTE_VALUES), dtype=torch.int64),
    )


def test_a_batch_depends_on_seed_and_step_alone(frames: np.ndarray, codec: LinearCodec) -> None:
    data = clips(codec.encode(torch.from_numpy(frames)), 120)
    ids = torch.randint(3, 90, (CLIPS, TEXT_LENGTH))
    one, two = (sample_batch(data, ids, 8, 3, 5, "cpu") for _ in range(2))
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))
    assert not torch.equal(one.noise, sample_batch(data, ids, 8, 3, 6, "cpu").noise)


def test_tokens_are_labelled_with_the_creature_that_they_show() -> None:
    masks = np.zeros((2, 17, 64, 96), bool)
    masks[0, :, :16, :16] = True  # the first token of every frame
    masks[1, 1:5, 48:, 80:] = True  # the last token of the second latent frame
    labels = token_labels(masks).reshape(5, 4, 6)
    assert (labels[:, 0, 0] == 1).all()
    assert labels[1, -1, -1] == 2
    assert (labels > 0).sum() == 6


def test_attribute_labels_say_what_the_caption_says() -> None:
    looks = population.generic_looks(list(named_looks().values()))
    cast = population.pretraining_cast(looks)
    for index in range(40):
        scenario = diet.sample_scenario(index, looks, cast)
        rows = attribute_labels(scenario)
        for row, actor in zip(rows, scenario.actors, strict=False):
            known = actor.action in ATTRIBUTE_VALUES["action"]
            told = {
                kind: values[i]
                for (kind, values), i in zip(ATTRIBUTE_VALUES.items(), row, strict=True)
                if i >= 0
            }
            assert told == asdict(actor.look) | ({"action": actor.action} if known else {})
            assert known or actor.action in moves.PHRASES


def test_the_learning_rate_rises_stays_and_falls_with_the_aids() -> None:
    schedule = Schedule(1000)
    rates = [schedule.learning_rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 200)
    assert rates[400] == schedule.aids(400) == 1.0
    assert rates[-1] == pytest.approx(0.02, abs=0.01)
    assert schedule.aids(999) < 0.01


def test_without_an_end_nothing_falls_and_new_optimisers_warm_up() -> None:
    schedule = Schedule(None, start=5000)
    assert schedule.learning_rate(5000) == pytest.approx(1 / 200)
    assert schedule.learning_rate(10**7) == schedule.aids(10**7) == 1.0
    average, steps = 0.0, 400
    for step in range(5001, 5001 + steps):  # the age of the averaged weights, in steps
        average = schedule.averaging(step) * (average + 1)
    assert average / steps == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_stopped_dit_pretraining_continues_exactly(
    frames: np.ndarray, codec: LinearCodec, tmp_path: Path
) -> None:
    data = clips(codec.encode(torch.from_numpy(frames[:, :9, :32, :48])), 18)  # small is quick
    ids = torch.randint(3, 90, (CLIPS, TEXT_LENGTH))

    def run(name: str, stop: int) -> list[tuple[float, float]]:
        torch.manual_seed(0)
        model, state = TextToVideo(120), tmp_path / name
        training = train_dit(
            lambda step: (data, ids), model, state, Schedule(3), batch_size=2, save_every=2, fast=False
        )
        losses = [loss for _, loss, _ in islice(training, stop)]
        training.close()
        return losses

    whole = run("whole", 3)
    first, second = run("parts", 1), run("parts", 3)
    assert first + second == whole
    assert run("parts", 3) == []
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("whole", "parts"))
    for kind in ("model", "average"):
        assert all(torch.equal(one[kind][key], two[kind][key]) for key in one[kind])


@pytest.mark.parametrize("spoilt_steps", [{1}, set(range(1, 50))])
def test_a_step_without_a_finite_loss_is_skipped_and_many_stop_the_training(
    spoilt_steps: set[int],
    frames: np.ndarray,
    codec: LinearCodec,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = clips(codec.encode(torch.from_numpy(frames[:, :9, :32, :48])), 18)
    spoilt = replace(data, latents=data.latents * torch.nan)
    ids = torch.randint(3, 90, (CLIPS, TEXT_LENGTH))
    training = train_dit(
        lambda step: (spoilt if step in spoilt_steps else data, ids),
        TextToVideo(120),
        tmp_path / "state",
        Schedule(20),
        batch_size=2,
        save_every=1,
        fast=False,
    )
    assert next(training)[0] == 1
    if len(spoilt_steps) == 1:
        assert next(training)[0] == 3
        training.close()
    else:
        with pytest.raises(CastmixError, match="10 steps in a row had no finite loss"):
            next(training)
    assert "step 2 is skipped" in capsys.readouterr().err
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state["step"] == (3 if len(spoilt_steps) == 1 else 1)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_stopped_vae_pretraining_continues_exactly(
    frames: np.ndarray, codec: LinearCodec, tmp_path: Path
) -> None:
    small = frames[:, :5, :32, :48]

    def run(name: str, stop: int) -> list[float]:
        torch.manual_seed(0)
        training = train_vae(small, codec, new_vae(), tmp_path / name, steps=4, save_every=3)
        errors = [error for _, error, _ in islice(training, stop)]
        training.close()
        return errors

    whole = run("whole", 4)
    assert run("parts", 2) + run("parts", 4) == whole
    assert run("parts", 4) == []


def test_the_first_frames_latents_are_those_of_a_still(frames: np.ndarray, codec: LinearCodec) -> None:
    still = np.repeat(frames[:, :1], 17, 1)
    latents = codec.encode(torch.from_numpy(still))
    torch.testing.assert_close(latents[:, :, :1].expand_as(latents), latents)
    moving = codec.encode(torch.from_numpy(frames))
    torch.testing.assert_close(moving[:, :, 0], latents[:, :, 0])


def test_decoding_inverts_encoding_within_the_components(frames: np.ndarray, codec: LinearCodec) -> None:
    video = torch.from_numpy(frames)
    blocks, latents = to_blocks(video), codec.encode(video)
    again = codec.decode(latents)
    assert psnr(again, blocks) > 22
    torch.testing.assert_close(
        (again - codec.mean) @ codec.basis, latents.permute(0, 2, 3, 4, 1), atol=1e-3, rtol=0
    )


def test_a_codec_fitted_to_latents_is_the_one_that_made_them(frames: np.ndarray) -> None:
    codec = fit_linear(frames, 6)
    mix = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    made = LinearCodec(codec.mean + 0.1, codec.basis @ mix)
    latents = made.encode(torch.from_numpy(frames))
    found = fit_to_latents(frames, latents)
    torch.testing.assert_close(found.encode(torch.from_numpy(frames)), latents, atol=2e-3, rtol=0)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((16, 40), (40, 16), (20, 20)):
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert 0.3 < values.min() <= values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        near = u.T @ orthogonalise(matrix) @ v.T  # the singular vectors stay
        assert (near - torch.diag(near.diagonal())).abs().max() < 1e-3


def test_muon_equals_torchs_up_to_its_rounding() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(16, 40, generator=g)
    one, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([one], lr=0.01, weight_decay=0.01)
    theirs = torch.optim.Muon([other], lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        one.grad = torch.randn(16, 40, generator=g)
        other.grad = one.grad.clone()
        own.step()
        theirs.step()
    assert (one - other).abs().max() < 0.03 * (one - start).abs().max()  # theirs is in bfloat16


def test_psnr_of_first_frame_and_others_apart() -> None:
    video = torch.zeros(1, 3, 5, 8, 8)
    drawn = video.clone()
    drawn[:, :, 0] += 0.2
    drawn[:, :, 1:] += 0.02
    first, others = first_and_other_frames(drawn, video)
    assert (first, others) == pytest.approx((20, 40), abs=1e-3)


def test_muon_updates_convolutions_in_channels_last() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), torch.nn.Conv3d(4, 2, 1))
    channels_last(net)
    optim = ConvMuon(net, 1e-2)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(1, 3, 3, 4, 4)).square().mean().backward()
    optim.step(1e-2)
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_psnr_of_a_known_error() -> None:
    video = frames_to_video(np.full((1, 1, 8, 8, 3), 100, np.uint8))
    off = frames_to_video(np.full((1, 1, 8, 8, 3), 110, np.uint8))
    assert psnr(video, off) == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_the_whole_way_from_scratch_ends_in_a_model_folder_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clips_module, "SHARD", 4)
    for name, value in (("CLIPS", 70), ("PART", 40), ("HELD_OUT_CLIPS", 4)):
        monkeypatch.setattr(vae_stage, name, value)
    monkeypatch.setattr(train_dit_module, "train_dit", partial(train_dit, fast=False, batch_size=2))
    settings = {"clips": 8, "vae_steps": 2, "dit_steps": 2, "device": "cpu"}
    for part in ("vae", "data", "dit"):
        assert pretrain(tmp_path, part=part, **settings) == tmp_path  # type: ignore[arg-type]
    base = pretrain(tmp_path, part="base", **settings)  # type: ignore[arg-type]
    assert base == tmp_path / "base"
    assert find_model(str(base)).num_frames == 17
    assert load_denoiser(str(base)) is not None
    assert "VAE step 2" in capsys.readouterr().err
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert len(drawn) == 2
    for part in ("vae", "data", "dit"):  # all is done
        pretrain(tmp_path, part=part, **settings)  # type: ignore[arg-type]
    assert drawn == {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert "step" not in capsys.readouterr().err
