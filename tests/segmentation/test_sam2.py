"""The backends "sam2" and "sam2-package": what they put equals what the models themselves say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel

from toolkit.captions.cast import Cast
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.video import read_video, write_video
from toolkit.sandbox.sam2_model import report as sam2_report
from toolkit.sandbox.sam2_model.network import new_sam2
from toolkit.sandbox.sam2_model.rollout import PointPrompts, encode_images, track_objects
from toolkit.segmentation import sam2 as backend
from toolkit.segmentation import sam2_package
from toolkit.segmentation.interfaces import Options, Prompt
from toolkit.segmentation.sam2 import Track, load_sam2, sam2_tracker, to_mask, to_pixels, tracker_with

FRAMES, HEIGHT, WIDTH = 22, 32, 48
PROMPTS = {"Pixo": Prompt(5, (4.0, 6.0, 20.0, 24.0)), "Mimi": Prompt(9, points=((30.0, 16.0, True),))}


@pytest.fixture(scope="module")
def model() -> Sam2VideoModel:
    """A random tiny SAM 2 that always sees something, and never the same twice."""
    model = new_sam2(3)
    with torch.no_grad():
        head = model.mask_decoder.pred_obj_score_head.proj_out
        head.weight.zero_()
        head.bias.fill_(1.0)
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    random = np.random.default_rng(0)
    frames = np.repeat(random.integers(0, 100, (1, HEIGHT, WIDTH, 3)).astype(np.uint8), FRAMES, 0)
    for t, frame in enumerate(frames):
        frame[8:22, t : t + 14] = (220, 40, 40)
        frame[10:20, 40 - t : 50 - t] = (40, 80, 220)
    path = tmp_path_factory.mktemp("clip") / "clips" / "one.mp4"
    write_video(path, frames, 8)
    return Clip(path, "", "e.mp4", 0.0, (FRAMES - 1) / 8, 8.0, FRAMES, WIDTH, HEIGHT, 0)


def options(checkpoint: str) -> Options:
    return Options(checkpoint, None, "cpu", Cast(()))


class Kept(dict[tuple[str, int], np.ndarray]):
    """What was put, each frame of each name once."""

    def put(self, frame: int, name: str, mask: np.ndarray) -> None:
        assert (name, frame) not in self
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask.dtype == np.uint8
        self[name, frame] = mask


def all_in_memory(model: Sam2VideoModel, clip: Clip, prompt: Prompt) -> dict[int, np.ndarray]:
    """Masks of one object as transformers makes them, the whole clip and everything remembered at hand."""
    pixels = to_pixels(read_video(clip.path)[0], model.config.image_size)
    session = Sam2VideoInferenceSession(
        video=pixels, video_height=clip.height, video_width=clip.width, dtype=torch.float32
    )
    number = session.obj_id_to_idx(1)
    scale = torch.tensor([model.config.image_size / clip.width, model.config.image_size / clip.height])
    if prompt.box:
        points, labels = torch.tensor(prompt.box).view(1, 1, 2, 2), torch.tensor([[[2, 3]]])
    else:
        points, labels = torch.tensor([[[prompt.points[0][:2]]]]), torch.tensor([[[1]]])
    inputs = {"point_coords": points * scale, "point_labels": labels.int()}
    session.add_point_inputs(number, prompt.frame, inputs)
    session.obj_with_new_inputs.append(1)
    masks = {}
    for reverse in (False, True):
        for out in model.propagate_in_video_iterator(session, prompt.frame, reverse=reverse):
            masks[out.frame_idx] = to_mask(out.pred_masks[0, 0], clip.height, clip.width)
    return masks


def test_streaming_in_both_directions_equals_a_run_with_everything_in_memory(
    model: Sam2VideoModel, clip: Clip
) -> None:
    kept = Kept()
    tracker_with(model)(clip, PROMPTS, kept.put)
    assert set(kept) == {(name, frame) for name in PROMPTS for frame in range(FRAMES)}
    for name, prompt in PROMPTS.items():
        truth = all_in_memory(model, clip, prompt)
        for frame, mask in truth.items():
            assert np.array_equal(kept[name, frame], mask), (name, frame)
    # the comparison means something: masks are neither empty nor whole, and they change
    shares = [mask.mean() / 255 for mask in kept.values()]
    assert 0.02 < np.mean(shares) < 0.98
    assert len({mask.tobytes() for mask in kept.values()}) > FRAMES


def test_session_memory_does_not_grow_with_the_clip(model: Sam2VideoModel, clip: Clip) -> None:
    """Looked at whenever the model is called with its session, once a frame."""
    stored: list[int] = []
    tracked: list[int] = []

    def watch(module: torch.nn.Module, words: tuple[()], named: dict[str, Any]) -> None:
        session: Sam2VideoInferenceSession = named["inference_session"]
        known = session.output_dict_per_obj[0]
        outputs = [*known["non_cond_frame_outputs"].values(), *known["cond_frame_outputs"].values()]
        tensors = [x for out in outputs for x in out.values() if isinstance(x, torch.Tensor)]
        stored.append(sum(x.numel() for x in tensors))
        tracked.append(len(known["non_cond_frame_outputs"]))
        assert len(session.frames_tracked_per_obj[0]) == 0
        features = [session.cache.get_vision_features(number) for number in range(FRAMES)]
        assert sum(one is not None for one in features) <= 1
        assert len(session.processed_frames) == FRAMES

    hook = model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        tracker_with(model)(clip, {"Pixo": Prompt(0, (4.0, 6.0, 20.0, 24.0))}, Kept().put)
    finally:
        hook.remove()
    reach = max(model.config.num_maskmem, model.config.max_object_pointers_in_encoder)
    assert 0 < max(tracked) <= 2 * reach
    # once both ends are full, not a number more is kept, though the clip goes on
    assert len(set(stored[2 * reach :])) == 1
    assert len(stored) == FRAMES > 2 * reach + 4


def test_only_the_current_frame_is_loaded() -> None:
    frames = backend.CurrentFrame(5, 2, torch.zeros(3, 4, 4))
    assert len(frames) == 5
    assert frames[2].shape == (3, 4, 4)
    with pytest.raises(KeyError, match="frame 1 is not loaded"):
        frames[1]


def test_the_training_loop_equals_the_models_own_tracking(model: Sam2VideoModel, clip: Clip) -> None:
    pixels = to_pixels(read_video(clip.path)[0][:7], model.config.image_size)
    prompt = Prompt(0, (4.0, 6.0, 20.0, 24.0))
    track = Track(model, prompt, (7, HEIGHT, WIDTH))
    said = []
    for number in range(7):
        track.session.processed_frames.number, track.session.processed_frames.pixels = number, pixels[number]
        said.append(model(inference_session=track.session, frame_idx=number).pred_masks)
    scale = torch.tensor([model.config.image_size / WIDTH, model.config.image_size / HEIGHT])
    points = torch.tensor([[[4.0, 6.0], [20.0, 24.0]]]) * scale
    asked = PointPrompts(points.repeat(2, 1, 1), torch.tensor([[2, 3], [2, 3]], dtype=torch.int32))
    # seven frames are fewer than the pointers that the model may look back on, which scales their ages
    old = model.config.max_object_pointers_in_encoder
    model.config.max_object_pointers_in_encoder = min(old, 7)
    try:
        with torch.no_grad():
            drawn = track_objects(model, encode_images(model, pixels), torch.arange(7).repeat(2, 1), asked)
    finally:
        model.config.max_object_pointers_in_encoder = old
    for out, truth in zip(drawn, said, strict=True):
        scale_of = truth.abs().mean()
        assert (out.logits[0] - truth[0]).abs().mean() < 0.02 * scale_of  # it keeps memories in 16 bits
        assert torch.allclose(out.logits[0], out.logits[1], atol=1e-3 * float(scale_of))


def test_a_model_saved_in_16_bits_is_loaded(model: Sam2VideoModel, clip: Clip, tmp_path: Path) -> None:
    small = new_sam2(3)
    small.load_state_dict(model.state_dict())
    small.half().save_pretrained(tmp_path / "half")
    loaded = load_sam2(str(tmp_path / "half"), "cpu")
    assert loaded.dtype == torch.float32
    for key, value in loaded.state_dict().items():
        assert torch.allclose(value, model.state_dict()[key], atol=2e-3, rtol=2e-3), key
    kept = Kept()
    sam2_tracker(options(str(tmp_path / "half")))(clip, PROMPTS, kept.put)
    assert len(kept) == 2 * FRAMES


def test_checkpoints_that_cannot_be_used_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "SANDBOX", tmp_path / "sandbox")
    with pytest.raises(CastmixError, match="castmix sandbox pretrain-sam2"):
        sam2_tracker(options("sandbox"))
    with pytest.raises(CastmixError, match="hf download nobody/nothing"):
        sam2_tracker(options("nobody/nothing"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CastmixError, match="is a bert model: expected SAM 2"):
        sam2_tracker(options(str(tmp_path / "other")))
    Sam2VideoConfig().save_pretrained(tmp_path / "empty")
    with pytest.raises(CastmixError, match="cannot be loaded"):
        sam2_tracker(options(str(tmp_path / "empty")))


def test_a_prompt_outside_and_a_clip_of_another_length_are_errors(model: Sam2VideoModel, clip: Clip) -> None:
    from dataclasses import replace

    with pytest.raises(CastmixError, match=f"Pixo is in frame {FRAMES}, expected 0 to {FRAMES - 1}"):
        tracker_with(model)(clip, {"Pixo": Prompt(FRAMES, (0, 0, 5, 5))}, Kept().put)
    with pytest.raises(CastmixError, match="neither a box nor points"):
        tracker_with(model)(clip, {"Pixo": Prompt(0)}, Kept().put)
    longer = replace(clip, num_frames=FRAMES + 3)
    with pytest.raises(CastmixError, match=f"has {FRAMES} readable frames, its json says {FRAMES + 3}"):
        tracker_with(model)(longer, {"Pixo": Prompt(FRAMES - 1, (0, 0, 5, 5))}, Kept().put)
    kept = Kept()
    tracker_with(model)(clip, {}, kept.put)
    assert not kept


class FakePredictor:
    """Says of each frame where it is bright; a mask prompt's area is kept for the test."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.lengths: list[int] = []

    def init_state(self, folder: str, offload_video_to_cpu: bool) -> list[Path]:
        paths = sorted(Path(folder).glob("*.jpg"))
        self.lengths.append(len(paths))
        return paths

    def add_new_points_or_box(
        self, state: list[Path], frame: int, obj: int, *, points: Any, labels: Any, box: Any
    ) -> None:
        self.begun.append((points, labels, box))

    def add_new_mask(self, state: list[Path], frame: int, obj: int, mask: torch.Tensor) -> None:
        self.begun.append(mask)

    def propagate_in_video(self, state: list[Path]) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        from PIL import Image

        for number, path in enumerate(state):
            with Image.open(path) as image:
                red = np.asarray(image)[..., 0].astype(np.float32)
            yield number, [1], torch.from_numpy(red - 128)[None, None]


def test_the_package_tracks_a_long_clip_in_parts(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePredictor()
    monkeypatch.setattr(sam2_package, "load_predictor", lambda options: fake)
    monkeypatch.setattr(sam2_package, "CHUNK", 6)
    kept = Kept()
    sam2_package.sam2_package_tracker(options("x"))(clip, {"Pixo": PROMPTS["Pixo"]}, kept.put)
    frames = read_video(clip.path)[0]
    assert set(kept) == {("Pixo", frame) for frame in range(FRAMES)}
    for (_, number), mask in kept.items():  # every mask is that of its own frame
        apart = [np.mean((mask > 0) != (frame[..., 0] > 128)) for frame in frames]
        assert np.argmin(apart) == number
    assert max(fake.lengths) <= 7  # a part, and the frame that it begins with
    masks = [begun for begun in fake.begun if isinstance(begun, torch.Tensor)]
    assert len(fake.begun) - len(masks) == 2  # the prompt, once in each direction
    assert np.array_equal(masks[0].numpy(), kept["Pixo", 10] > 0)


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(CastmixError, match="pip install --no-build-isolation --no-deps"):
        sam2_package.sam2_package_tracker(options("facebook/sam2.1-hiera-tiny"))


def test_the_package_names_the_models_that_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    package, build = ModuleType("sam2"), ModuleType("sam2.build_sam")
    known: Mapping[str, Any] = {"facebook/sam2.1-hiera-tiny": ()}
    build.HF_MODEL_ID_TO_FILENAMES = known  # type: ignore[attr-defined]
    build.build_sam2_video_predictor_hf = lambda name, device: name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sam2", package)
    monkeypatch.setitem(sys.modules, "sam2.build_sam", build)
    assert sam2_package.load_predictor(options("facebook/sam2.1-hiera-tiny")) == "facebook/sam2.1-hiera-tiny"
    with pytest.raises(CastmixError, match=r"knows facebook/sam2\.1-hiera-tiny"):
        sam2_package.load_predictor(options("sandbox"))


def test_the_sandboxes_own_model_tracks_unseen_characters(tmp_path: Path) -> None:
    found = sam2_report.measure_sam2("sandbox", tmp_path, clips=4)
    # of four clips each; docs/segmentation.md has the numbers of many
    least = {"episodes": 0.85, "cross": 0.65, "alike": 0.65, "leave": 0.6}
    assert {family: one.iou for family, one in found.items() if one.iou < least[family]} == {}
