from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from toolkit.attention.map_reading import read_maps, token_grid
from toolkit.cli.click_app import castmix
from toolkit.commands.cache import cache
from toolkit.commands.fuse import fuse
from toolkit.core.errors import CastmixError
from toolkit.core.seeds import generator_for
from toolkit.footage.clips import read_clips, write_clip
from toolkit.footage.masks import mask_path, write_mask
from toolkit.fusion import distillation, gradient
from toolkit.fusion.distillation import add_map_gradient, add_velocity_gradient, compare_maps
from toolkit.fusion.job import Job
from toolkit.fusion.regression import solve
from toolkit.fusion.settings import Distil, Examples, FusedFile, Sparse, Squares
from toolkit.fusion.training_clips import load_pairs
from toolkit.lora.file import Lora, load_lora, save_lora
from toolkit.lora.layers import extract
from toolkit.lora.parts import Part
from toolkit.models import registry as models
from toolkit.training.metrics_log import read_metrics
from toolkit.training.settings import Optim, Sigma

MakeClips = Callable[..., Path]
LAYERS = {
    "blocks.0.attn1.to_q": (32, 32),
    "blocks.0.attn2.to_q": (32, 32),
    "blocks.0.attn2.to_k": (32, 32),
    "blocks.1.ffn.net.0.proj": (48, 32),
    "blocks.1.ffn.net.2": (32, 48),
}
PAIR = "[Character: Pixo], jumps over the moon. [Character: Bruk], walks. [scene-style:cartoon]"
QUICK: dict[str, Any] = {"layers": (0, 1), "optim": Optim(lr=2e-3, weight_decay=0, warmup=1)}
"""Of `Distil`."""


def some_lora(seed: int, rank: int, layers: tuple[str, ...] = tuple(LAYERS)) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in layers:
        outputs, inputs = LAYERS[layer]
        a, b = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
        tensors[layer] = (0.1 * a, b)
    return Lora(tensors)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, make_clips: MakeClips, tiny_wan: Path) -> list[Path]:
    """Folders of cached clips, of Pixo and of Bruk."""
    folder = tmp_path_factory.mktemp("alone")
    folders = [make_clips(folder / name, 2, name=name, num_frames=5) for name in ("Pixo", "Bruk")]
    for one in folders:
        cache(one, model=str(tiny_wan))
    return folders


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, make_clips: MakeClips, tiny_wan: Path) -> Path:
    """Cached clips of both with their masks, left and right; the last one's mask of Bruk was refused."""
    folder = make_clips(tmp_path_factory.mktemp("pairs") / "pairs", 3, num_frames=5)
    for number, clip in enumerate(read_clips(folder)):
        extra = {"masks": {"Pixo": {"accepted": True}, "Bruk": {"accepted": number < 2}}}
        write_clip(folder, type(clip)(**{**vars(clip), "text": PAIR, "extra": extra}))
        for name, columns in (("Pixo", slice(0, 24)), ("Bruk", slice(24, 48))):
            mask = np.zeros((5, 32, 48), np.uint8)
            mask[:, 8:, columns] = 255
            write_mask(mask_path(clip, name), mask, 8)
    cache(folder, model=str(tiny_wan))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_lora(some_lora(1, 3), paths[0])
    save_lora(some_lora(2, 2, tuple(LAYERS)[1:]), paths[1])
    return [str(path) for path in paths]


def job_of(tiny_wan: Path, work: Path, **changes: Any) -> Job:
    known: dict[str, Any] = {"examples": Examples(), "rank": None, "seed": 0, "restart": False}
    known |= {"sparse": Sparse(), "squares": Squares(), "distil": Distil(optim=Optim())}
    return Job(spec=models.find_model(str(tiny_wan)), work=work, **known | changes)


def change(lora: Lora, layer: str) -> torch.Tensor:
    a, b = lora.tensors[layer]
    return b @ a


def test_the_solution_equals_that_of_the_stacked_equations() -> None:
    layer, ridge = "blocks.1.ffn.net.0.proj", 0.01
    parts = [
        Part("a", some_lora(1, 3), 0.7),
        Part("b", some_lora(2, 2), 1.0),
        Part("c", some_lora(3, 2, ()), 1),
    ]
    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(n, 32, generator=generator).double() for n in (40, 25, 30)]
    grams = [x.mT @ x / len(x) for x in inputs]
    (a, b), residuals = solve(parts, layer, grams, ridge)
    mu = ridge * float(sum(gram.diagonal().mean() for gram in grams))
    rows, targets = [], []
    for part, x in zip(parts, inputs, strict=True):
        own = part.weight * change(part.lora, layer) if layer in part.lora.tensors else torch.zeros(48, 32)
        for equations in (x / len(x) ** 0.5, (mu / 3) ** 0.5 * torch.eye(32).double()):
            rows.append(equations)
            targets.append(equations @ own.double().mT)
    wanted = torch.linalg.lstsq(torch.cat(rows), torch.cat(targets)).solution.mT
    torch.testing.assert_close(b @ a, wanted.float(), rtol=1e-4, atol=1e-5)
    assert a.shape[0] == 5  # the sum of the ranks, exactly
    assert 0 < residuals.solution < residuals.average < residuals.total


def test_each_lora_is_kept_on_disjoint_inputs() -> None:
    layer = "blocks.0.attn1.to_q"
    parts = [Part("a", some_lora(1, 3), 1.0), Part("b", some_lora(2, 2), 1.0)]
    halves = torch.eye(32).split(16)
    (a, b), residuals = solve(parts, layer, [half.mT @ half for half in halves], 1e-9)
    for part, half in zip(parts, halves, strict=True):
        torch.testing.assert_close(b @ a @ half.mT, change(part.lora, layer) @ half.mT, rtol=1e-4, atol=1e-5)
    assert residuals.relative(residuals.solution) < 1e-6
    assert residuals.relative(residuals.average) > 0.5


@pytest.mark.parametrize("method", ["least-squares", "gradient"])
def test_fusion_of_one_is_itself(
    alone: list[Path], files: list[str], tmp_path: Path, tiny_wan: Path, method: Any
) -> None:
    settings: dict[str, Any] = {
        "model": str(tiny_wan),
        "examples": Examples((alone[0],)),
        "subjects": ["Pixo"],
    }
    made = fuse(files[:1], tmp_path / "x", method=method, distil=Distil(steps=3, **QUICK), **settings)
    for layer in LAYERS:
        one, own = change(load_lora(made), layer), change(load_lora(Path(files[0])), layer)
        torch.testing.assert_close(one, own, rtol=1e-4, atol=1e-5)
        if method == "gradient":  # not a bit of a gradient
            assert torch.equal(one, own)


def test_least_squares_keeps_more_of_both_than_the_average(
    alone: list[Path], files: list[str], tmp_path: Path, tiny_wan: Path
) -> None:
    import yaml

    settings: dict[str, Any] = {"subjects": ["Pixo", "Bruk"], "method": "least-squares"}
    settings["examples"] = Examples(tuple(alone))
    one = fuse(files, tmp_path / "one", model=str(tiny_wan), **settings)
    told = yaml.safe_load((tmp_path / "one" / "run.yaml").read_text())
    assert 0 < told["left_over"] < told["left_over_by_average"]
    few = fuse(files, tmp_path / "few", model=str(tiny_wan), squares=Squares(memory=1e-9), **settings)
    torch.testing.assert_close(load_lora(few).tensors, load_lora(one).tensors)  # a pass for each layer
    small = fuse(files, tmp_path / "small", model=str(tiny_wan), file=FusedFile(rank=2), **settings)
    assert load_lora(small).rank == 2


def test_gradient_fusion_alternates_loras_and_resumes(
    alone: list[Path], pairs: Path, files: list[str], tmp_path: Path, tiny_wan: Path
) -> None:
    settings: dict[str, Any] = {"model": str(tiny_wan), "subjects": ["Pixo", "Bruk"]}
    settings |= {"method": "gradient", "examples": Examples(tuple(alone), pairs)}
    whole = fuse(files, tmp_path / "whole", distil=Distil(steps=6, **QUICK), **settings)
    fuse(files, tmp_path / "parts", distil=Distil(steps=3, **QUICK), **settings)
    again = fuse(files, tmp_path / "parts", distil=Distil(steps=6, save_every=1, **QUICK), **settings)
    assert whole.read_bytes() == again.read_bytes()
    rows = read_metrics(tmp_path / "whole")
    turns = [sorted(name for name in row if name.startswith("loss")) for row in rows]
    assert turns == [["loss/a", "loss_attention"], ["loss/b", "loss_attention"]] * 3
    with pytest.raises(CastmixError, match=r"distil.attention was 0.6 and is 0.1"):
        fuse(
            files,
            tmp_path / "parts",
            distil=Distil(steps=7, attention=0.1, **QUICK),
            **settings,
        )
    with pytest.raises(CastmixError, match=r"step 6 already, distil.steps is 5"):
        fuse(files, tmp_path / "parts", distil=Distil(steps=5, **QUICK), **settings)


def lesson_of(alone: list[Path], pairs: Path, tiny_wan: Path, work: Path) -> distillation.Lesson:
    """What `gradient` teaches two parts with, caught before its first step."""

    class Caught(Exception):  # noqa: N818
        pass

    def catch(lesson: distillation.Lesson, step: int) -> float:
        raise Caught(lesson)

    parts = [Part("a", some_lora(1, 3), 1.0, ("Pixo",)), Part("b", some_lora(2, 2), 0.5, ("Bruk",))]
    examples = Examples(tuple(alone), pairs, sigma=Sigma(shift=3.0))
    job = job_of(tiny_wan, work, examples=examples, distil=Distil(batch_size=2, layers=(0, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "add_velocity_gradient", catch)
        patch.setattr(gradient, "DROPOUT", 0.0)
        with pytest.raises(Caught) as caught:
            gradient.gradient(parts, job)
    lesson: distillation.Lesson = caught.value.args[0]
    return lesson


@pytest.mark.parametrize("maps", [False, True])
def test_both_losses_fall(alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path, maps: bool) -> None:
    """On a batch of each LoRA and a mixed clip that stay the same; one LoRA may have to give way."""
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    student = [one for name, one in lesson.denoiser.module.named_parameters() if ".fused." in name]
    optimizer = torch.optim.Adam(student, lr=3e-3)
    rows = []
    for _ in range(20):
        rows.append([add_velocity_gradient(lesson, 0), add_velocity_gradient(lesson, 1)])
        rows[-1] += [0.6 * add_map_gradient(lesson, 0)] if maps else []
        optimizer.step()
        optimizer.zero_grad()
    assert sum(rows[-1]) < 0.9 * sum(rows[0])
    if maps:
        assert rows[-1][2] < 0.7 * rows[0][2]


def test_worse_attention_maps_are_reported(
    alone: list[Path],
    pairs: Path,
    tmp_path: Path,
    tiny_wan: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fused LoRA's against the base's, the same on every look."""
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    learnt, base = compare_maps(lesson)
    assert learnt != base
    assert compare_maps(lesson) == (learnt, base)
    (found,) = lesson.denoiser.module.get_submodule("blocks.0.attn1.to_q").active_adapters
    assert found == distillation.STUDENT  # as it was
    capsys.readouterr()
    real = distillation.map_loss
    for sign in (1, -1):

        def loss(denoiser: models.Denoiser, *rest: Any, sign: int = sign) -> torch.Tensor:
            active: Any = denoiser.module.get_submodule("blocks.0.attn1.to_q")
            return real(denoiser, *rest) + sign * bool(active.active_adapters)

        monkeypatch.setattr(distillation, "map_loss", loss)
        compare_maps(lesson)
        told = capsys.readouterr().err.replace("\n", " ")
        assert ("warning: the attention maps are worse than the base model's" in told) is (sign > 0)


def test_only_the_student_gets_gradients(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path
) -> None:
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    add_velocity_gradient(lesson, 0)
    add_map_gradient(lesson, 0)
    with_gradient = {
        name
        for name, one in lesson.denoiser.module.named_parameters()
        if one.grad is not None and one.grad.any()
    }
    assert with_gradient
    assert all(".fused." in name for name in with_gradient)


def test_the_gradient_of_the_map_loss_equals_finite_differences(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path
) -> None:
    """In a random direction of all of the student's numbers, in float64, the maps' maxima held constant."""
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    denoiser, pair = lesson.denoiser, lesson.pairs[0]
    denoiser.module.double()
    latents, embeds = (half.unsqueeze(0).double() for half in pair.item.load())
    sigma = torch.tensor([0.8], dtype=torch.float64)
    student = [one for name, one in denoiser.module.named_parameters() if ".fused." in name]
    distillation.map_loss(denoiser, latents, sigma, embeds, pair, lesson.layers).backward()  # type: ignore[no-untyped-call]
    generator = generator_for(0, 0, "direction")
    step = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in student]
    used = [(one, way) for one, way in zip(student, step, strict=True) if one.grad is not None]
    slope = sum(float((one.grad * way).sum()) for one, way in used if one.grad is not None)

    def maps() -> torch.Tensor:
        with torch.no_grad():
            return read_maps(
                denoiser,
                latents,
                sigma,
                embeds,
                spans=pair.spans,
                real=pair.real,
                layers=lesson.layers,
                kind="token",
            )[0]

    top = maps().amax((1, 2, 3), keepdim=True) + 1e-6
    target = pair.targets(token_grid(denoiser, latents))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for one, way in used:
                one += sign * 1e-4 * way
            values.append(float((maps() / top - target).double().square().mean()))
            for one, way in used:
                one -= sign * 1e-4 * way
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)


def test_pairs_are_clips_with_masks_of_two_subjects(pairs: Path, tiny_wan: Path) -> None:
    spec, encoders = models.find_model(str(tiny_wan)), models.load_encoders(str(tiny_wan))
    parts = [Part("a", Lora({}), 1.0, ("Pixo",)), Part("b", Lora({}), 1.0, ("Bruk", "Nobody"))]
    found = load_pairs(pairs, spec, parts, encoders)
    assert [pair.item.path.stem for pair in found] == ["clip-00", "clip-01"]
    assert found[0].subjects == ("Pixo", "Bruk")
    assert found[0].spans == tuple(encoders.token_spans(PAIR, ["Pixo", "Bruk"]))
    targets = found[0].targets((2, 2, 3))
    assert targets.shape == (2, 2, 2, 3)
    torch.testing.assert_close(targets.sum(0)[0], torch.tensor([[0.5] * 3, [1.0] * 3]))
    with pytest.raises(CastmixError, match=r"has masks of two subjects .*subjects: Pixo"):
        load_pairs(pairs, spec, parts[:1], encoders)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "least-squares", "examples": Examples()}, "give their folders with --clips"),
        ({"method": "least-squares", "subjects": ["Pixo", "Zed"]}, "belongs to b alone; its subjects: Zed"),
        ({"method": "least-squares", "subjects": []}, r"its subjects: none \(give --subjects"),
        ({"method": "least-squares", "squares": Squares(ridge=0)}, "squares.ridge and .* got 0, 4 and 4"),
        ({"method": "gradient"}, "give --pairs"),
        ({"method": "gradient", "distil": Distil(steps=0)}, "distil.steps must be 1 or more, got 0"),
        ({"method": "gradient", "distil": Distil(map_sigma=(0.9, 0.4))}, "got 0.9,0.4"),
        ({"method": "gradient", "distil": Distil(attention=-1)}, "must be 0 or more, got -1"),
    ],
)
def test_wrong_arguments_are_errors(
    alone: list[Path],
    files: list[str],
    tmp_path: Path,
    tiny_wan: Path,
    settings: dict[str, Any],
    message: str,
) -> None:
    known: dict[str, Any] = {"model": str(tiny_wan), "subjects": ["Pixo", "Bruk"]}
    known["examples"] = Examples(tuple(alone))
    with pytest.raises(CastmixError, match=message):
        fuse(files, tmp_path / "x.safetensors", **{**known, **settings})


def test_the_command_line_runs_the_method(
    alone: list[Path], pairs: Path, files: list[str], tmp_path: Path, tiny_wan: Path
) -> None:
    out = tmp_path / "fused.safetensors"
    words = ["fuse", *files, "--out", str(out), "--method", "gradient", "--model", str(tiny_wan)]
    words += ["--clips", str(alone[0]), "--clips", str(alone[1]), "--pairs", str(pairs), "--rank", "4"]
    words += ["--subjects", "Pixo", "--subjects", "Bruk", "--distil.steps", "2"]
    words += ["--distil.layers", "0", "--distil.layers", "1", "--distil.map-sigma", "0.4,0.9"]
    result = CliRunner().invoke(castmix(), words)
    assert result.exit_code == 0, result.output
    assert load_lora(out).rank == 4
    assert (tmp_path / "fused" / "state.safetensors").is_file()


def test_each_turn_has_its_own_teacher_and_clips(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    seen: list[Any] = []
    activate, draw = distillation.activate, distillation.draw
    monkeypatch.setattr(
        distillation, "activate", lambda module, weights: seen.append(weights) or activate(module, weights)
    )
    monkeypatch.setattr(distillation, "draw", lambda mix, *rest: seen.append(mix) or draw(mix, *rest))
    for step, (number, weight) in enumerate([(0, 1.0), (1, 0.5), (0, 1.0)]):
        seen.clear()
        add_velocity_gradient(lesson, step)
        assert seen[0] is lesson.mixes[number]
        assert seen[1:] == [{f"part{number}": weight}]


def test_the_map_gradient_is_proportional_to_its_weight(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path
) -> None:
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    student = [one for name, one in lesson.denoiser.module.named_parameters() if ".fused." in name]
    found = []
    for weight in (0.6, 1.8):
        job = replace(lesson.job, distil=replace(lesson.job.distil, attention=weight))
        add_map_gradient(replace(lesson, job=job), 0)
        found.append(torch.cat([one.grad.flatten() for one in student if one.grad is not None]))
        lesson.denoiser.module.zero_grad()
    assert found[0].any()
    torch.testing.assert_close(found[1], 3 * found[0], rtol=1e-4, atol=1e-7)


def test_the_fused_lora_starts_as_the_average(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path
) -> None:
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    student = extract(lesson.denoiser.module, distillation.STUDENT)
    first, second = (part.lora for part in lesson.parts)
    for layer in student.tensors:
        parts = [
            weight * change(lora, layer)
            for lora, weight in ((first, 1.0), (second, 0.5))
            if layer in lora.tensors
        ]
        torch.testing.assert_close(change(student, layer), torch.stack(parts).sum(0) / 2)


def test_the_gradient_of_the_fusion_loss_equals_finite_differences(
    alone: list[Path], pairs: Path, tmp_path: Path, tiny_wan: Path
) -> None:
    """L_fusion in a random direction of all of the student's numbers, the network in float64."""
    lesson = lesson_of(alone, pairs, tiny_wan, tmp_path)
    lesson.denoiser.module.double()
    student = [one for name, one in lesson.denoiser.module.named_parameters() if ".fused." in name]
    generator = generator_for(0, 0, "direction")
    step = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in student]
    add_velocity_gradient(lesson, 1)
    slope = sum(
        float((one.grad * way).sum()) for one, way in zip(student, step, strict=True) if one.grad is not None
    )

    def moved(size: float) -> float:
        with torch.no_grad():
            for one, way in zip(student, step, strict=True):
                one += size * way
        loss = add_velocity_gradient(lesson, 1)
        with torch.no_grad():
            for one, way in zip(student, step, strict=True):
                one -= size * way
        return loss

    assert slope == pytest.approx((moved(1e-4) - moved(-1e-4)) / 2e-4, rel=1e-2)
    assert slope != 0
