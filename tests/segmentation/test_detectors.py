"""The detectors "describe" and "reference", and how boxes are given to characters."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Sam2VideoInferenceSession,
    SwinConfig,
)

from toolkit.captions.cast import Cast, Character
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.video import write_video
from toolkit.sandbox.sam2_model.network import new_sam2
from toolkit.segmentation import detectors as module
from toolkit.segmentation import reference_matching
from toolkit.segmentation.box_matching import (
    Detections,
    assign,
    best_prompts,
    box_iou,
    merge_duplicates,
    sampled_frames,
)
from toolkit.segmentation.detectors import description_detector, load_detector, reference_detector
from toolkit.segmentation.interfaces import Options
from toolkit.segmentation.reference_matching import character_mask, similarity

WORDS = ["a", "red", "blue", "star", "ball", "with", "hat", ","]


def options(checkpoint: str = "sandbox", detector: str | None = None) -> Options:
    return Options(checkpoint, detector, "cpu", Cast(()))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """A red square on the left and a blue one on the right, on grey; the blue one comes in frame 4."""
    frames = np.full((9, 48, 64, 3), 120, np.uint8)
    frames[:, 10:34, 6:26] = (220, 40, 40)
    frames[4:, 14:38, 38:58] = (40, 80, 230)
    path = tmp_path_factory.mktemp("clip") / "clips" / "one.mp4"
    write_video(path, frames, 8)
    return Clip(path, "", "e.mp4", 0.0, 1.0, 8.0, 9, 64, 48, 0)


def test_the_assignment_has_the_highest_total_score() -> None:
    random = np.random.default_rng(0)
    for rows, columns in ((4, 3), (3, 3), (2, 4), (6, 2), (5, 4), (0, 2)):
        for _ in range(15):
            scores, least = random.uniform(0, 1, (rows, columns)), 0.3
            padded = np.vstack([np.where(scores >= least, scores, 0.0), np.zeros((columns, columns))])
            every = permutations(range(rows + columns), columns)
            best = max(sum(padded[row, k] for k, row in enumerate(rows_of)) for rows_of in every)
            found = assign(scores, least)
            assert len(set(found.values())) == len(found)
            assert all(scores[row, k] >= least for k, row in found.items())
            assert sum(scores[row, k] for k, row in found.items()) == pytest.approx(best)


def test_one_box_is_given_to_one_character() -> None:
    twins = np.asarray([[0, 0, 10, 10], [0.4, 0, 10.2, 10], [20, 0, 30, 10]], np.float64)
    found = merge_duplicates(Detections(twins, np.asarray([[0.9, 0.2], [0.3, 0.8], [0.1, 0.5]])))
    assert len(found.boxes) == 2
    assert found.scores[0].tolist() == [0.9, 0.8]
    prompts = best_prompts(["Pixo", "Mimi"], [(3, found)], 0.2)
    assert prompts["Pixo"].box == (0, 0, 10, 10)
    assert prompts["Mimi"].box == (20, 0, 30, 10)
    alone = Detections(twins[:1], np.asarray([[0.9, 0.8]]))
    assert set(best_prompts(["Pixo", "Mimi"], [(0, alone)], 0.2)) == {"Pixo"}


def test_each_character_gets_its_best_frame_and_missing_ones_are_left_out() -> None:
    box = np.asarray([[0, 0, 10, 10], [20, 0, 30, 10]], np.float64)
    seen = [
        (0, Detections(box, np.asarray([[0.5, 0], [0, 0.4]]))),
        (7, Detections(box, np.asarray([[0.4, 0], [0, 0.9]]))),
    ]
    prompts = best_prompts(["Pixo", "Mimi"], seen, 0.3)
    assert (prompts["Pixo"].frame, prompts["Mimi"].frame) == (0, 7)
    assert prompts["Mimi"].score == pytest.approx(0.9)
    assert set(best_prompts(["Pixo", "Mimi"], seen, 0.6)) == {"Mimi"}
    assert best_prompts(["Pixo"], [(0, Detections(np.zeros((0, 4)), np.zeros((0, 1))))], 0.1) == {}


def test_overlap_of_boxes() -> None:
    a = np.asarray([0, 0, 10, 10], np.float64)
    assert box_iou(a, a) == 1
    assert box_iou(a, np.asarray([5.0, 0, 15, 10])) == pytest.approx(50 / 150)
    assert box_iou(a, a + 20) == 0
    assert box_iou(a * 0, a * 0) == 0


def test_sampled_frames_are_spread_over_the_clip(clip: Clip) -> None:
    assert [number for number, _ in sampled_frames(clip, 5)] == [0, 2, 4, 6, 8]
    assert [number for number, _ in sampled_frames(clip, 99)] == list(range(9))
    from dataclasses import replace

    with pytest.raises(CastmixError, match="has 9 readable frames, its json says 12"):
        list(sampled_frames(replace(clip, num_frames=12)))


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny GroundingDINO."""
    folder = tmp_path_factory.mktemp("models") / "dino"
    vocab = {f"[unused{i}]": i for i in range(1100)}
    places = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    places |= {word: 1030 + i for i, word in enumerate(WORDS)}
    kept = {token: i for token, i in vocab.items() if i not in places.values()} | places
    BertTokenizer(vocab=dict(sorted(kept.items(), key=lambda pair: pair[1]))).save_pretrained(folder)
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=12, max_text_len=32,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny OWLv2."""
    folder = tmp_path_factory.mktemp("models") / "owl"
    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    text = {"vocab_size": len(pieces), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "eos_token_id": len(pieces) - 1}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=text, vision_config=vision | {"image_size": 64, "patch_size": 16}, projection_dim=16
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    return folder


def test_grounding_dino_equals_its_own_processor(dino: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GroundingDinoImageProcessorPil

    monkeypatch.setattr(module, "SHORT", 64)
    monkeypatch.setattr(module, "LONG", 96)
    look, _ = load_detector(str(dino), "cpu")
    random = np.random.default_rng(0)
    frame = np.kron(random.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    found = look(frame, ["A red star.", "a blue ball with a hat"])
    network = GroundingDinoForObjectDetection.from_pretrained(dino).eval()
    tokenizer = BertTokenizer.from_pretrained(dino)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    pixels = images(images=frame, return_tensors="pt")
    words = tokenizer("a red star. a blue ball with a hat.", return_tensors="pt")
    with torch.no_grad():
        out = network(**pixels, **words)
    belief = out.logits[0].sigmoid().numpy()
    assert np.allclose(found.scores[:, 0], belief[:, 1:4].mean(1), atol=1e-2)
    assert np.allclose(found.scores[:, 1], belief[:, 5:11].mean(1), atol=1e-2)
    x, y, w, h = out.pred_boxes[0].T.numpy() * np.asarray([64, 48, 64, 48])[:, None]
    edges = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    assert np.allclose(found.boxes, edges.clip(0, [64, 48, 64, 48]), atol=0.3)


def test_owlv2_pads_a_frame_to_a_square(owl: Path) -> None:
    look, least = load_detector(str(owl), "cpu")
    random = np.random.default_rng(0)
    frame = np.kron(random.integers(0, 255, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    square = np.zeros((64, 64, 3), np.uint8)
    square[:48] = frame
    wide, whole = look(frame, ["a red star", "a ball"]), look(square, ["a red star", "a ball"])
    assert least == 0.1
    assert wide.scores.shape == (16, 2)
    assert np.array_equal(wide.scores, whole.scores)  # the same square, filled by hand
    assert np.array_equal(wide.boxes, whole.boxes)
    assert not np.allclose(wide.scores[:, 0], wide.scores[:, 1])
    both = look(frame, ["a ball", "a red star"])
    assert np.allclose(both.scores[:, ::-1], wide.scores, atol=1e-5)


def test_describe_gives_each_character_a_box_of_its_own(
    owl: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.MIN_SCORE, "owlv2", 0.0)
    cast = [Character("Pixo", description="a red star"), Character("Mimi", description="a blue ball")]
    prompts = description_detector(options(detector=str(owl)))(clip, cast)
    assert set(prompts) == {"Pixo", "Mimi"}
    if prompts["Pixo"].frame == prompts["Mimi"].frame:
        assert prompts["Pixo"].box != prompts["Mimi"].box
    assert description_detector(options(detector=str(owl)))(clip, []) == {}
    with pytest.raises(CastmixError, match="Nilo has no description"):
        description_detector(options(detector=str(owl)))(clip, [Character("Nilo")])


def test_detectors_that_cannot_be_used_say_what_to_do(
    dino: Path, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CastmixError, match="hf download nobody/nothing"):
        description_detector(options(detector="nobody/nothing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CastmixError, match="is a bert model: expected one of grounding-dino, owlv2"):
        description_detector(options(detector=str(tmp_path)))
    look, _ = load_detector(str(dino), "cpu")
    with pytest.raises(CastmixError, match="limit 32: shorten them"):
        look(np.zeros((48, 64, 3), np.uint8), ["a red star with a red hat"] * 6)


class Colours:
    """A stand-in for SAM 2: its features are colours, and a prompt takes all that has its middle's colour.

    A side of 960 is a multiple of all sides here, so that masks are true to the pixel.
    """

    def __init__(self) -> None:
        self.config = SimpleNamespace(image_size=960, num_maskmem=7, max_object_pointers_in_encoder=16)
        self.backbone_feature_sizes = [(12, 16)]
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_image_features(self, pixels: torch.Tensor, return_dict: bool) -> SimpleNamespace:
        cells = torch.nn.functional.adaptive_avg_pool2d(pixels, self.backbone_feature_sizes[-1])
        return SimpleNamespace(fpn_hidden_states=[cells.flatten(2).permute(2, 0, 1)])

    def __call__(
        self, inference_session: Sam2VideoInferenceSession, frame_idx: int, reverse: bool
    ) -> SimpleNamespace:
        pixels = inference_session.processed_frames[frame_idx]
        points = inference_session.point_inputs_per_obj[0][frame_idx]["point_coords"]
        x, y = points[0, 0].mean(0).long().tolist()  # a click, or a box's two corners
        apart = (pixels - pixels[:, y, x].view(3, 1, 1)).abs().amax(0)
        return SimpleNamespace(pred_masks=(0.7 - apart)[None, None])


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Colours:
    model = Colours()
    monkeypatch.setattr(reference_matching, "load_sam2", lambda *given: model)
    return model


def picture(folder: Path, name: str, colour: tuple[int, int, int], transparent: bool) -> Path:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = (245, 245, 245), 0 if transparent else 255
    rgba[8:32, 8:32] = (*colour, 255)
    path = folder / name
    Image.fromarray(rgba if transparent else rgba[..., :3]).save(path)
    return path


@pytest.mark.usefixtures("colours")
def test_reference_detector_finds_the_pictured_characters(clip: Clip, tmp_path: Path) -> None:
    red = picture(tmp_path, "red.png", (225, 45, 40), transparent=True)
    blue = picture(tmp_path, "blue.png", (40, 85, 225), transparent=False)
    green = picture(tmp_path, "green.png", (30, 200, 60), transparent=True)
    cast = [Character("Pixo", references=(red,)), Character("Mimi", references=(blue,))]
    prompts = reference_detector(options())(clip, cast)
    assert prompts["Pixo"].box == pytest.approx((6, 10, 26, 34), abs=2)
    assert prompts["Mimi"].box == pytest.approx((38, 14, 58, 38), abs=2)
    assert prompts["Mimi"].frame >= 4  # before, it is not there
    with_other = reference_detector(options())(clip, [*cast, Character("Nilo", references=(green,))])
    assert set(with_other) == {"Pixo", "Mimi"}  # nobody green is to be seen
    assert reference_detector(options())(clip, []) == {}
    with pytest.raises(CastmixError, match="Olga has no reference pictures"):
        reference_detector(options())(clip, [Character("Olga")])


def test_similarity_is_one_for_equal_features_and_low_for_weak_ones() -> None:
    samples = np.asarray([[3.0, 0.0], [0.0, 4.0]])
    assert similarity(samples[0], samples[:1]) == pytest.approx(1)
    assert similarity(7 * samples[0], samples[:1]) == pytest.approx(1)
    assert similarity(-samples[0], samples[:1]) == pytest.approx(-1)
    assert similarity(0.1 * samples[0], samples[:1]) == pytest.approx(0.1)
    assert similarity(samples, samples).tolist() == pytest.approx([0.5, 0.5])
    assert similarity(np.zeros((2, 5, 2)), samples).shape == (2, 5)


@pytest.mark.usefixtures("colours")
def test_unreadable_pictures_are_named(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(CastmixError, match=r"broken\.png: cannot be read"):
        reference_detector(options())(clip, [Character("Pixo", references=(tmp_path / "broken.png",))])
    empty = np.zeros((20, 20, 4), np.uint8)
    Image.fromarray(empty).save(tmp_path / "empty.png")
    with pytest.raises(CastmixError, match=r"empty\.png: no character found"):
        reference_detector(options())(clip, [Character("Pixo", references=(tmp_path / "empty.png",))])


def test_a_character_is_cut_out_by_transparency_by_a_plain_background_or_by_a_click(
    colours: Any, tmp_path: Path
) -> None:
    truth = np.zeros((40, 40), bool)
    truth[8:32, 8:32] = True
    for transparent in (True, False):
        with Image.open(picture(tmp_path, "one.png", (220, 40, 40), transparent)) as image:
            assert np.array_equal(character_mask(colours, np.asarray(image.convert("RGBA"))), truth)
    busy = np.random.default_rng(0).integers(0, 100, (40, 40, 4)).astype(np.uint8)
    busy[..., 3] = 255
    busy[8:32, 8:32, :3] = (220, 220, 40)
    assert np.array_equal(character_mask(colours, busy), truth)


def test_reference_runs_on_a_real_sam2(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_sam2(1)
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(9.0)
    model.save_pretrained(tmp_path / "sam2")
    monkeypatch.setattr(reference_matching, "MIN_SIMILARITY", -1.0)
    red = picture(tmp_path, "red.png", (225, 45, 40), transparent=True)
    prompts = reference_detector(options(str(tmp_path / "sam2")))(
        clip, [Character("Pixo", references=(red,))]
    )
    for prompt in prompts.values():
        assert prompt.box is not None
        left, top, right, bottom = prompt.box
        assert 0 <= left < right <= clip.width
        assert 0 <= top < bottom <= clip.height
