"""How the sandbox's SAM 2 is made: its cases, its losses and its resumable training, on very little."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from toolkit.captions.cast import Character
from toolkit.cli.click_app import castmix
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.sandbox.sam2_model import batches as sam2_batches
from toolkit.sandbox.sam2_model import report
from toolkit.sandbox.sam2_model import train as module
from toolkit.sandbox.sam2_model.batches import (
    MAX_CREATURES,
    SHORT,
    SLOW,
    Cases,
    auxiliary_loss,
    draw_shard,
    mask_errors,
    mask_loss,
    sample_batch,
    sample_prompts,
)
from toolkit.sandbox.sam2_model.examples import KINDS, OUT_OF_SIGHT, sample_case
from toolkit.sandbox.sam2_model.network import IMAGE_SIZE, MASK_SIZE, new_sam2
from toolkit.sandbox.sam2_model.pretrain import pretrain_sam2
from toolkit.sandbox.sam2_model.report import (
    FAMILIES,
    TEST_SEEDS,
    DetectionScores,
    Family,
    TrackingScores,
    measure_reference,
    measure_sam2,
    overlay_masks,
    sample_masked_clip,
    table,
)
from toolkit.sandbox.sam2_model.rollout import (
    MaskOutput,
    attend_to_memory,
    calibrate_memory,
    encode_images,
    encode_memory,
    track_objects,
)
from toolkit.sandbox.sam2_model.train import Phase, fit, new_learner, phases
from toolkit.sandbox.world import world
from toolkit.sandbox.world.population import generic_looks
from toolkit.sandbox.world.shows import named_looks
from toolkit.segmentation.interfaces import Options, Prompt, Propagate, StoreMask
from toolkit.segmentation.mask_iou import box_of

LOOKS = generic_looks(list(named_looks().values()))


@pytest.fixture(autouse=True)
def fast_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Newton-Schulz iteration instead of five. They take most of a step, and no test needs them all."""
    monkeypatch.setattr(torch.optim, "Muon", partial(torch.optim.Muon, ns_steps=1))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    path = tmp_path_factory.mktemp("cases") / "cases-000.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam2_batches, "SHARD", 10)
        draw_shard(path, 0, LOOKS)
    return Cases.read([path])


def test_cases_are_drawn_from_their_seed_and_move_as_their_kind_says() -> None:
    for kind in KINDS:
        frames, masks = sample_case(5, LOOKS, kind, 8).draw()
        again, _ = sample_case(5, LOOKS, kind, 8).draw()
        assert np.array_equal(frames, again)
        assert frames.shape == (8, world.HEIGHT, world.WIDTH, 3)
        assert masks.shape == (len(sample_case(5, LOOKS, kind, 8).actors[0]), *frames.shape[:3])
        assert not (masks.sum(0) > 1).any()  # a pixel is one creature's
    for seed in range(4):
        first, second = (
            np.asarray([actors[k].x for actors in sample_case(seed, LOOKS, "cross", 9).actors])
            for k in (0, 1)
        )
        assert np.sign(first[0] - second[0]) == -np.sign(first[-1] - second[-1])
        _, masks = sample_case(seed, LOOKS, "leave", 21).draw()
        gone = ~masks.any((2, 3))
        assert gone[:, int(21 * sum(OUT_OF_SIGHT) / 2)].sum() == 1
        assert not gone[:, -1].any()


def test_look_alikes_differ_in_one_trait_at_most_and_looks_are_never_the_named_ones() -> None:
    named = set(named_looks().values())
    for seed in range(12):
        one, other = sample_case(seed, LOOKS, "alike", 4).actors[0]
        pairs = zip(vars(one.look).values(), vars(other.look).values(), strict=True)
        assert sum(a != b for a, b in pairs) <= 1
        assert one.style == other.style
    for kind in ("alone", "together", "cross", "leave"):
        looks = {actor.look for seed in range(6) for actor in sample_case(seed, LOOKS, kind, 2).actors[0]}
        assert not looks & named


def test_a_shard_holds_frames_and_masks(cases: Cases) -> None:
    assert cases.frames.shape == (10, SHORT.frames, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert cases.masks.shape == (10, MAX_CREATURES, SHORT.frames, MASK_SIZE, MASK_SIZE)
    assert cases.frames.std() > 20
    # a mask drawn coarsely, enlarged and cut at a half is the fine one but for its edge
    _, truth = sample_case(3, LOOKS, "alone", 4).draw()
    coarse = sam2_batches._resized(torch.from_numpy(truth) * 255, MASK_SIZE).float() / 255 - 0.5
    size = truth.shape[2:]
    large = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear").numpy() > 0
    assert (large & truth).sum() / (large | truth).sum() > 0.93


def test_slow_cases_are_longer_and_mostly_crossings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam2_batches, "SHARD", 2)
    draw_shard(tmp_path / "slow.npz", 0, LOOKS, SLOW)
    slow = Cases.read([tmp_path / "slow.npz"])
    assert slow.frames.shape[1] == slow.masks.shape[2] == SLOW.frames == 2 * SHORT.frames
    assert sum(SLOW.shares) == pytest.approx(1)
    shares = dict(zip(KINDS, SLOW.shares, strict=True))
    assert shares["cross"] + shares["alike"] > 0.5
    these = sample_batch(slow, 2, 8, torch.Generator().manual_seed(0))
    assert these.rows.shape[1] == 8


def test_a_batch_holds_frames_and_masks_of_each_creature(cases: Cases) -> None:
    for length in (1, 2, 6):
        these = sample_batch(cases, 3, length, torch.Generator().manual_seed(length))
        assert these.pixels.shape == (3 * length, 3, IMAGE_SIZE, IMAGE_SIZE)
        assert these.rows.shape == these.masks.shape[:2] == these.present.shape
        assert these.rows.max() == 3 * length - 1
        assert these.present[:, 0].all()
        assert len(these.prompts.points) == len(these.rows)
        assert these.all_masks.shape == (3 * length, MAX_CREATURES, MASK_SIZE, MASK_SIZE)
        for row, masks in zip(these.rows, these.masks, strict=True):  # each is one of those in its frames
            apart = (these.all_masks[row] - masks[:, None]).abs().sum((0, 2, 3))
            assert apart.min() == 0
    thrice = sample_batch(cases, 3, 1, torch.Generator().manual_seed(1), prompts=3)
    count = len(thrice.rows) // 3
    assert torch.equal(thrice.masks[:count], thrice.masks[2 * count :])
    assert not torch.equal(thrice.prompts.points[:count], thrice.prompts.points[2 * count :])
    held = thrice.repeat_first(2)
    assert torch.equal(held.rows[:, 0], held.rows[:, 1])
    assert torch.equal(held.masks[:, 0], held.masks[:, 1])
    assert held.present.shape == (3 * count, 2)
    again = sample_batch(cases, 3, 6, torch.Generator().manual_seed(6))
    assert torch.equal(again.pixels, these.pixels)
    assert torch.equal(again.prompts.points, these.prompts.points)


def test_prompts_lie_on_the_creature() -> None:
    g = torch.Generator().manual_seed(0)
    masks = torch.zeros(40, MASK_SIZE, MASK_SIZE)
    masks[:, 10:30, 8:20] = 1
    scale = IMAGE_SIZE / MASK_SIZE
    box = sample_prompts(masks, "box", g)
    assert box.labels.tolist() == [[2, 3]] * 40
    middle = box.points.mean(0)
    assert torch.allclose(middle, torch.tensor([[8.0, 10.0], [20.0, 30.0]]) * scale, atol=1.0)
    assert box.points.std(0).min() > 0.2  # people draw boxes by hand
    for kind, number in (("click", 1), ("clicks", 3)):
        asked = sample_prompts(masks, kind, g)
        assert asked.points.shape == (40, number, 2)
        assert (asked.labels == 1).all()
        assert asked.multimask == (number == 1)
        inside = (asked.points / scale).long()
        assert (masks[0][inside[..., 1], inside[..., 0]] == 1).all()
    assert not box.multimask


def test_mask_errors_are_zero_for_the_truth_and_large_for_its_inverse() -> None:
    truth = torch.zeros(1, 1, MASK_SIZE, MASK_SIZE)
    truth[..., 8:24, 8:24] = 1
    focal, dice, iou = mask_errors(torch.where(truth > 0, 30.0, -30.0), truth)
    assert focal.item() < 1e-6
    assert dice.item() < 1e-3
    assert iou.item() == 1
    focal, dice, iou = mask_errors(torch.where(truth > 0, -30.0, 30.0), truth)
    assert focal.item() > 10
    assert dice.item() > 0.99
    assert iou.item() == 0
    half = truth.clone()
    half[..., 16:24, :] = 0
    assert mask_errors(torch.where(half > 0, 30.0, -30.0), truth)[2].item() == pytest.approx(0.5)


def test_the_scout_error_is_zero_for_true_centres() -> None:
    all_masks = torch.zeros(1, 2, MASK_SIZE, MASK_SIZE)
    all_masks[0, 0, 10:20, 4:12] = all_masks[0, 1, 22:30, 20:36] = 1
    rows, columns = torch.meshgrid(
        torch.arange(MASK_SIZE) + 0.5, torch.arange(MASK_SIZE) + 0.5, indexing="ij"
    )
    said = torch.where(all_masks.sum(1, keepdim=True) > 0, 30.0, -30.0).repeat(1, 3, 1, 1)
    for mask, (x, y) in zip(all_masks[0] > 0, ((8, 15), (28, 26)), strict=True):
        said[0, 1][mask] = 10 * (x - columns[mask]) / MASK_SIZE
        said[0, 2][mask] = 10 * (y - rows[mask]) / MASK_SIZE
    assert auxiliary_loss(said, all_masks).item() < 1e-4
    said[0, 1] += 1
    assert auxiliary_loss(said, all_masks).item() == pytest.approx(0.3, abs=1e-3)


def test_only_the_best_of_several_masks_gets_a_gradient(cases: Cases) -> None:
    these = sample_batch(cases, 2, 1, torch.Generator().manual_seed(1))
    count = len(these.rows)
    logits = torch.randn(count, 3, MASK_SIZE, MASK_SIZE, requires_grad=True)
    with torch.no_grad():
        logits[:, 1] = torch.where(these.masks[:, 0] > 0.5, 2.0, -2.0)
    quality, presence = torch.full((count, 3), 0.5), torch.zeros(count, 1)
    found = mask_loss([MaskOutput(logits, quality, torch.zeros(count, 3, 4), presence)], these)
    found.loss.backward()
    assert logits.grad is not None
    assert logits.grad[:, 1].abs().sum() > 0
    assert logits.grad[:, [0, 2]].abs().sum() == 0
    assert found.prompted == pytest.approx(1.0)
    assert np.isnan(found.tracked)


def test_gradients_reach_every_part_through_the_memory(cases: Cases) -> None:
    model = new_sam2().train()
    these = sample_batch(cases, 2, 3, torch.Generator().manual_seed(2))
    drawn = track_objects(model, encode_images(model, these.pixels), these.rows, these.prompts, these.present)
    drawn[2].logits.square().mean().backward()
    reached = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached >= {
        "vision_encoder", "mask_decoder", "prompt_encoder", "memory_attention", "memory_encoder",
        "object_pointer_proj", "memory_temporal_positional_encoding",
        "temporal_positional_encoding_projection_layer", "no_memory_embedding",
    }  # fmt: skip
    first = model.vision_encoder.backbone.patch_embed.projection.weight.grad
    assert first is not None
    assert first.abs().sum() > 0


def test_settled_memory_features_resemble_image_features(cases: Cases) -> None:
    model = new_sam2().eval()
    these = sample_batch(cases, 4, 1, torch.Generator().manual_seed(3)).repeat_first(2)
    with torch.no_grad():
        seen = encode_images(model, these.pixels)
        calibrate_memory(model, seen)
        now = seen.select(these.rows[:, 0])
        mask = (these.masks[:, 0] - 0.5) * 20
        memory = encode_memory(model, now.top, mask, these.present[:, :1], sure=True)
        pointer = torch.zeros(len(mask), model.hidden_dim)
        told = attend_to_memory(model, now, [memory], [pointer])
    assert told.shape == now.top.shape
    assert told.std().item() == pytest.approx(now.top.std().item(), rel=0.3)
    same = torch.nn.functional.cosine_similarity(told, now.top, dim=-1).mean()
    other = torch.nn.functional.cosine_similarity(told, now.top.roll(17, 0), dim=-1).mean()
    assert same > other


def test_the_model_is_small_enough_to_ship() -> None:
    count = sum(p.numel() for p in new_sam2().parameters())
    assert 2.5e6 < count < 3.5e6
    assert 2 * count < 8e6


def test_a_stopped_training_continues_to_the_same_weights(
    cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 1)
    phase, folder, stopped = Phase("pairs", 2, 1, 2, 1e-3), tmp_path / "whole", tmp_path / "stopped"
    folder.mkdir()
    whole, continued = new_learner(0), new_learner(1)
    for done, found in fit(whole, cases, phase, folder, 0)[1]:
        assert found.loss.isfinite()
        if done == 1:
            shutil.copytree(folder, stopped)
    start, steps = fit(continued, cases, phase, stopped, 0)
    assert start == 1
    assert [done for done, _ in steps] == [2]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[key]), key


def test_the_encoder_is_frozen_in_phases_without_its_learning_rate(cases: Cases, tmp_path: Path) -> None:
    encoder_learns = [False, True, False, True, False, True, True]
    assert [phase.encoder > 0 for phase in phases(1, 1, 1, 1, 1, 1, 1)] == encoder_learns
    for encoder, scout in ((0.0, True), (0.5, True), (0.5, False)):
        learner = new_learner(0)
        before = {key: value.clone() for key, value in learner.state_dict().items()}
        phase = Phase(f"rows{encoder}{scout}", 2, 1, 1, 1e-3, encoder=encoder, auxiliary=scout)
        list(fit(learner, cases, phase, tmp_path, 0)[1])
        changed = {key for key, value in learner.state_dict().items() if not torch.equal(value, before[key])}
        assert any("vision_encoder" in key for key in changed) == (encoder > 0)
        assert any("scout" in key for key in changed) == (encoder > 0 and scout)
        assert any("memory_attention" in key for key in changed)


@pytest.mark.parametrize("family", FAMILIES)
def test_test_clips_show_named_characters_in_their_first_frame(family: str) -> None:
    shown = sample_masked_clip(family, TEST_SEEDS)  # type: ignore[arg-type]
    frames, masks = shown.frames, shown.masks
    assert frames.shape[1:] == (world.HEIGHT, world.WIDTH, 3)
    assert masks.shape[1:] == frames.shape[:3]
    assert masks[:, 0].any((1, 2)).all()
    assert len(masks) == len(shown.names) == (1 if family in ("episodes", "leave") else 2)
    assert family != "leave" or not masks.any((2, 3)).all()
    if family in ("episodes", "cross"):
        assert set(shown.names) <= set(named_looks())
    assert np.array_equal(sample_masked_clip(family, TEST_SEEDS).frames, frames)  # type: ignore[arg-type]


def test_the_report_tells_good_trackers_from_bad_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackers that store the true masks, empty ones, and true ones in two thirds of the frames."""
    clips = 2
    keys = [(family, TEST_SEEDS + k) for family in FAMILIES for k in range(clips)]
    drawn = {key: sample_masked_clip(*key) for key in keys}
    shown = {f"{family}-{seed - TEST_SEEDS:02d}": clip for (family, seed), clip in drawn.items()}

    def until(share: float) -> Callable[[Options], Propagate]:
        def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
            masks = shown[clip.id].masks
            for name, prompt in prompts.items():
                assert prompt == Prompt(0, box_of(masks[int(name), 0]))
                for number, mask in enumerate(masks[int(name)]):
                    store(number, name, np.uint8(255) * (mask & (number < share * clip.num_frames)))

        return lambda options: propagate

    def measured(share: float) -> dict[Family, TrackingScores]:
        monkeypatch.setattr(report, "sam2_tracker", until(share))
        monkeypatch.setattr(report, "sample_masked_clip", lambda *key: drawn[key])
        return measure_sam2("any", tmp_path, clips=clips)

    whole, nothing, part = measured(1), measured(0), measured(2 / 3)
    for family in FAMILIES:
        creatures = clips * (1 if family in ("episodes", "leave") else 2)
        assert whole[family] == TrackingScores(clips, creatures, 1, 1, 1)
        gone = [  # an empty mask is right where nobody is
            ~mask[1:].any((1, 2)) for k in range(clips) for mask in shown[f"{family}-{k:02d}"].masks
        ]
        assert nothing[family].iou == pytest.approx(np.mean([one.mean() for one in gone]))
        assert nothing[family].worst == pytest.approx(min(one.mean() for one in gone))
        assert nothing[family].held == part[family].held == 0
        assert nothing[family].iou < part[family].iou < 1
        with Image.open(tmp_path / f"{family}.png") as sheet:
            assert sheet.size == (12 * world.WIDTH, clips * world.HEIGHT)
    told = table(part, DetectionScores(3, 1 / 3, 1 / 3, 1 / 3)).splitlines()
    assert [line.split()[0] for line in told[1:-1]] == [*FAMILIES]
    assert f"{part['cross'].iou:.3f}" in told[1 + FAMILIES.index("cross")]
    assert told[-1].endswith("of 3: 33% right, 33% wrong, 33% missed")


def test_a_detector_is_right_wrong_or_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an episode's one character and the two who cross: one found, one elsewhere, one not found."""
    truth = {f"{family}-00": sample_masked_clip(family, TEST_SEEDS) for family in ("episodes", "cross")}  # type: ignore[arg-type]

    def detect(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
        own = truth[clip.id]
        assert [one.name for one in characters] == list(own.names)
        if clip.id.startswith("episodes"):
            return {own.names[0]: Prompt(3, box_of(own.masks[0, 3]))}
        return {own.names[0]: Prompt(0, (0.0, 0.0, 2.0, 2.0))}

    monkeypatch.setattr(report, "reference_detector", lambda options: detect)
    found = measure_reference("any", tmp_path, clips=1)
    assert found == DetectionScores(3, *(pytest.approx(1 / 3) for _ in range(3)))


def test_masks_are_painted_over_their_frames_alone() -> None:
    frames, masks = np.full((2, 4, 6, 3), 100, np.uint8), np.zeros((1, 2, 4, 6), np.uint8)
    masks[0, 1, 2, 3] = 255
    picture = overlay_masks(frames, masks)
    assert np.array_equal(picture[0], frames[0])
    assert (picture != frames).any(-1).sum() == 1


def test_the_command_trains_measures_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam2_batches, "SHARD", 4)
    monkeypatch.setattr("toolkit.sandbox.sam2_model.report.FRAMES", 3)
    few = {
        "cases": 4,
        "slow": 4,
        "prompts": 1,
        "pictures": 1,
        "copies": 1,
        "pairs": 1,
        "rows": 1,
        "crossings": 1,
        "refine": 1,
    }
    words = [word for key, value in few.items() for word in (f"--{key}", str(value))]
    run = CliRunner().invoke(
        castmix(), ["sandbox", "pretrain-sam2", "--out", str(tmp_path), *words, "--measure", "0"]
    )
    assert run.exit_code == 0, run.output
    weights = (tmp_path / "sam2" / "model.safetensors").read_bytes()
    assert len(weights) < 8e6
    assert pretrain_sam2(tmp_path, **few, measure=0) == tmp_path / "sam2"  # all of it is there
    assert (tmp_path / "sam2" / "model.safetensors").read_bytes() == weights
    # one step teaches nothing, but the model follows
    results = measure_sam2(str(tmp_path / "sam2"), tmp_path / "followed", clips=1, device="cpu")
    assert {family: one.creatures for family, one in results.items()} == {
        "episodes": 1, "cross": 2, "alike": 2, "leave": 1
    }  # fmt: skip
    with pytest.raises(CastmixError, match="1 or more"):
        pretrain_sam2(tmp_path, cases=0)
