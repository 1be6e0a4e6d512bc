"""Subjects and a motion in one video, on a network: the tiny random Wan, whole command included."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit import generate
from toolkit.attention.map_reading import map_layers, read_maps, token_grid
from toolkit.cli.click_app import castmix
from toolkit.commands.fuse import fuse
from toolkit.core.errors import CastmixError
from toolkit.footage.video import read_video, write_video
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora, save_lora
from toolkit.lora.loading import LoraSet
from toolkit.lora.parts import Part
from toolkit.lora.settings import Adapter
from toolkit.lora.special_tokens import subject_spans
from toolkit.models import registry as models
from toolkit.models.flow_matching import sigma_schedule
from toolkit.sampling.collaborative_branches import (
    BranchPrompt,
    make_branch,
    motion_branch_prompt,
    subject_branch_prompt,
    subjects_of,
)
from toolkit.sampling.collaborative_gradients import Branch, BranchName, attention_gradients
from toolkit.sampling.denoise import denoise, guided_velocity
from toolkit.sampling.prompt_encoding import EncodedPrompts
from toolkit.sampling.request import Request, parse_words
from toolkit.sampling.samplers import Network, velocity_of
from toolkit.sampling.settings import Collaboration, Masked, Sampling

SMALL: dict[str, Any] = {"steps": 3, "num_frames": 9, "height": 32, "width": 48}
PROMPT = "[Character: Pixo], jumps over the moon. [Character: Bruk], walks."
MOTION_PROMPT = "a cat jumps over the moon and a dog walks"
WORDS = ["Pixo=cat", "Bruk=dog"]
SHAPE = (16, 3, 4, 6)


def random_lora(tiny_wan: Path, seed: int) -> Lora:
    denoiser = models.load_denoiser(str(tiny_wan))
    adapters.add(denoiser.module, "a", Adapter(rank=2), seed=seed)
    made = adapters.extract(denoiser.module, "a")
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (a, 0.3 * torch.randn(b.shape, generator=generator)) for name, (a, b) in made.tensors.items()
    }
    return Lora(tensors, {"castmix.base_fingerprint": models.fingerprint(str(tiny_wan))})


@pytest.fixture(scope="module")
def loras(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loras")
    paths = {name: folder / f"{name}.safetensors" for name in ("pixo", "bruk", "wave")}
    for seed, path in enumerate(paths.values()):
        save_lora(random_lora(tiny_wan, seed), path)
    return paths


@pytest.fixture
def doubled(tiny_wan: Path) -> tuple[models.Denoiser, list[Part]]:
    """The network in float64 with a subject and a motion."""
    denoiser = models.load_denoiser(str(tiny_wan))
    members = [
        Part("s", random_lora(tiny_wan, 0), 1.0, role="subject"),
        Part("m", random_lora(tiny_wan, 2), 0.5, role="motion"),
    ]
    for one in members:
        adapters.attach(denoiser.module, one.lora, one.name)
    denoiser.module.double()
    return denoiser, members


def prompted() -> dict[BranchName, BranchPrompt]:
    generator = torch.Generator().manual_seed(5)
    embeds = torch.randn(2, 1, 12, 24, generator=generator, dtype=torch.float64)
    return {
        "subject": BranchPrompt(embeds[0], ((1, 2), (5,)), 9),
        "motion": BranchPrompt(embeds[1], ((1, 2), (6,)), 10),
    }


def pair(denoiser: models.Denoiser, members: list[Part], settings: Collaboration) -> dict[BranchName, Branch]:
    found: dict[BranchName, Branch] = {}
    for name, one in prompted().items():
        weights = {member.name: member.weight for member in members if member.role == name}
        active = functools.partial(adapters.activate, denoiser.module, weights)
        velocity = guided_velocity(denoiser, one.embeds, torch.zeros_like(one.embeds), 2.0)
        found[name] = make_branch(denoiser, one, velocity, active, settings)
    return found


def test_pulls_through_the_network_equal_finite_differences(
    doubled: tuple[models.Denoiser, list[Part]],
) -> None:
    """Against finite differences, with each branch's adapters; the same when blocks are computed twice."""
    denoiser, members = doubled
    generator = torch.Generator().manual_seed(1)
    x, direction = (torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor(0.9, dtype=torch.float64)
    found = {}
    for checkpointing in (False, True):
        branches = pair(denoiser, members, Collaboration(checkpointing=checkpointing))
        found[checkpointing] = attention_gradients(branches, x, sigma, ["spatial", "temporal"])
    assert not denoiser.module.gradient_checkpointing  # type: ignore[truthy-function]
    layers, prompts = map_layers(2), prompted()
    names: tuple[BranchName, ...] = ("subject", "motion")

    @torch.no_grad()
    def maps(name: BranchName, at: Tensor, temporal: bool) -> Tensor:
        """As the branch reads them; spatial ones before they are divided by their largest values."""
        one = prompts[name]
        with branches[name].active():
            if temporal:
                return torch.stack(branches[name].read_maps(at, sigma, ["temporal"])["temporal"])
            kind: Any = {"kind": "token", "layers": layers, "spans": one.spans, "real": one.real}
            return read_maps(denoiser, at, sigma, one.embeds, **kind)

    for name, other in zip(names, reversed(names), strict=True):
        pulls = found[False].gradients[name]
        torch.testing.assert_close(found[True].gradients[name].gradient, pulls.gradient, rtol=1e-9, atol=0)
        temporal, peak, constant = name == "subject", torch.ones(()), maps(other, x, name == "subject")
        if not temporal:  # the largest value of a map is a constant to its gradient
            peak, peaks = (maps(one, x, False).amax((2, 3, 4), keepdim=True) + 1e-6 for one in (name, other))
            constant = constant / peaks

        def loss(at: Tensor, name: BranchName = name, temporal: bool = temporal) -> Tensor:
            return (maps(name, at, temporal) / peak - constant).square().mean()  # noqa: B023

        slope = (loss(x + 1e-3 * direction) - loss(x - 1e-3 * direction)) / 2e-3
        # some of diffusers' norms compute in float32 whatever they are given
        torch.testing.assert_close((pulls.gradient * direction).sum(), slope, rtol=1e-3, atol=0)
        torch.testing.assert_close(pulls.loss[0], loss(x))
    assert all(parameter.grad is None for parameter in denoiser.module.parameters())


@pytest.mark.parametrize("sampler", ["scs", "scs-lite"])
def test_a_zero_step_sums_the_velocities_of_two_adapters(
    doubled: tuple[models.Denoiser, list[Part]], sampler: str
) -> None:
    denoiser, members = doubled
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(3, 12, 24, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    prompts = EncodedPrompts(
        embeds[:1],
        embeds[2:],
        branches=(
            {
                "subject": BranchPrompt(embeds[:1], ((1,),), 9),
                "motion": BranchPrompt(embeds[1:2], ((2,),), 8),
            },
        ),
    )
    request = Request(
        Sampling(sampler, 3, 2.0, 3.0, "", 9, 32, 48),  # type: ignore[arg-type]
        {},
        Collaboration(eta=0.0, sigma_window=(0.5, 1.0), beta_subject=(0.8, 0.8), beta_motion=(0.2, 0.2)),
        Masked(),
    )
    network = Network(denoiser, LoraSet(parts=tuple(members)), request)
    sigmas, told = sigma_schedule(3, 3.0).double(), []
    ours = denoise(velocity_of(network, prompts, noise, sigmas, told.append), noise, sigmas)
    assert [report.guided for report in told] == [True, True, False]

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        total = torch.zeros_like(latents)
        for share, weights, row in ((0.8, {"s": 1.0}, 0), (0.2, {"m": 0.5}, 1)):
            one = guided_velocity(denoiser, embeds[row : row + 1], embeds[2:], 2.0)
            with adapters.activate(denoiser.module, weights):
                total += share * one(latents, sigma)
        return total

    with torch.no_grad():
        torch.testing.assert_close(ours, denoise(velocity, noise, sigmas))


def test_generate_runs_collaborative_sampling(tiny_wan: Path, loras: dict[str, Path], tmp_path: Path) -> None:
    from click.testing import CliRunner

    out = tmp_path / "scs.mp4"
    subjects = f"--subject {loras['pixo']} --subject {loras['bruk']}:0.5 --motion {loras['wave']}"
    knobs = "--sampler scs --collaboration.sigma-window 0.5,1 --collaboration.keep-maps --words Pixo=cat"
    size = "--words Bruk=dog --seed 3 --steps 3 --num-frames 9 --height 32 --width 48"
    words = [
        "generate",
        PROMPT,
        "--motion-prompt",
        MOTION_PROMPT,
        "--out",
        str(out),
        "--model",
        str(tiny_wan),
    ]
    words += f"{subjects} {knobs} {size}".split()
    result = CliRunner().invoke(castmix(), words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(out.with_suffix(".json").read_text())
    assert (told["sampler"], told["motion_prompt"]) == ("scs", MOTION_PROMPT)
    assert told["collaboration"]["eta"] == 0.02
    assert [one["role"] for one in told["loras"]] == ["subject", "subject", "motion"]
    steps = [json.loads(line) for line in out.with_suffix(".steps.jsonl").read_text().splitlines()]
    assert [step["guided"] for step in steps] == [True, True, False]
    for step in steps[:2]:
        for name in ("subject", "motion"):
            assert step[name]["eta"] == pytest.approx(0.02, rel=1e-4)
            assert step[name]["loss"] > 0
            assert step[name]["alpha"] > 0
    from safetensors.torch import load_file

    maps = load_file(out.with_suffix(".maps.safetensors"))
    assert sorted(maps) == ["000.motion", "000.subject", "001.motion", "001.subject"]
    assert all(one.shape == (2, 3, 2, 3) for one in maps.values())

    settings: dict[str, Any] = {
        "model": str(tiny_wan),
        "subject": [str(loras["pixo"]), f"{loras['bruk']}:0.5"],
        "motion": str(loras["wave"]),
        "seed": 3,
        **SMALL,
    }
    window = Collaboration(sigma_window=(0.5, 1.0))
    both: dict[str, Any] = {"motion_prompt": MOTION_PROMPT, "words": WORDS, "collaboration": window}
    again = generate(PROMPT, tmp_path / "again.mp4", sampler="scs", **both, **settings)
    assert read_video(again[0])[0].tobytes() == read_video(out)[0].tobytes()
    lite = generate(PROMPT, tmp_path / "lite.mp4", sampler="scs-lite", **both, **settings)
    summed = generate(PROMPT, tmp_path / "sum.mp4", **settings)
    files = [*(str(path) for path in loras.values())]
    files[1] += ":0.5"
    plain = generate(PROMPT, tmp_path / "plain.mp4", lora=files, model=str(tiny_wan), seed=3, **SMALL)
    pictures = [read_video(path)[0].tobytes() for (path,) in (again, lite, summed, plain)]
    assert pictures[2] == pictures[3]  # euler sums all, whatever their roles
    assert len(set(pictures)) == 3


def test_inverted_noise_of_the_motion_clip_is_used(tiny_wan: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3)).astype(np.uint8)
    write_video(clip, frames, 16)
    settings: dict[str, Any] = {"model": str(tiny_wan), "motion_clip": clip, **SMALL}
    shares = {share: Collaboration(inversion=share) for share in (0.0, 0.3)}
    first, none = (
        generate("a cat", tmp_path / f"{share}.mp4", collaboration=knobs, **settings)[0]
        for share, knobs in reversed(shares.items())
    )
    (kept,) = (tmp_path / "inversions").iterdir()
    when = kept.stat().st_mtime_ns
    again = generate("a cat", tmp_path / "again.mp4", **settings)[0]
    assert again.read_bytes()  # made from what was kept
    assert kept.stat().st_mtime_ns == when
    assert read_video(again)[0].tobytes() == read_video(first)[0].tobytes()
    without = generate("a cat", tmp_path / "without.mp4", model=str(tiny_wan), **SMALL)[0]
    assert read_video(without)[0].tobytes() == read_video(none)[0].tobytes()
    assert read_video(without)[0].tobytes() != read_video(first)[0].tobytes()
    with pytest.raises(CastmixError, match=r"9 frames of 48x32 at 16 a second, the new video has 5 of"):
        generate("a cat", tmp_path / "x.mp4", **{**settings, "num_frames": 5})


@pytest.fixture
def both(tiny_wan: Path, loras: dict[str, Path], tmp_path: Path) -> Path:
    """A masked fusion of two subjects."""
    return fuse(
        [str(loras["pixo"]), str(loras["bruk"])],
        tmp_path / "both.safetensors",
        method="masked",
        model=str(tiny_wan),
        subjects=["Pixo", "Bruk"],
    )


def test_a_masked_fusion_in_both_samplers(
    tiny_wan: Path, loras: dict[str, Path], both: Path, tmp_path: Path
) -> None:
    """Its parts act where their subjects are; where a prompt names one of them alone, that is everywhere."""
    settings: dict[str, Any] = {"model": str(tiny_wan), **SMALL}

    def video(name: str, prompt: str, **more: Any) -> bytes:
        (path,) = generate(prompt, tmp_path / f"{name}.mp4", **settings, **more)
        return read_video(path)[0].tobytes()

    alone = "[Character: Pixo], jumps."
    assert video("a", alone, lora=[str(both)]) == video("b", alone, lora=[str(loras["pixo"])])
    summed = [str(loras["pixo"]), str(loras["bruk"])]
    assert video("c", PROMPT, lora=[str(both)]) != video("d", PROMPT, lora=summed)
    together = {
        "motion": str(loras["wave"]),
        "sampler": "scs",
        "motion_prompt": MOTION_PROMPT,
        "words": WORDS,
    }
    assert video("e", PROMPT, subject=[str(both)], **together) != video(
        "f", PROMPT, subject=summed, **together
    )
    with pytest.raises(CastmixError, match="collaborative sampling needs a masked fusion as --subject"):
        video("g", PROMPT, subject=summed, lora=[str(both)], **together)


def test_a_masked_fusion_on_the_bases_layout(
    tiny_wan: Path, loras: dict[str, Path], both: Path, tmp_path: Path
) -> None:
    """The base draws from plain words until masked.sigma; who is alone is the plain LoRA from the start."""
    settings: dict[str, Any] = {"model": str(tiny_wan), **SMALL}

    def videos(name: str, prompts: list[str], **more: Any) -> list[bytes]:
        paths = generate(prompts, tmp_path / name, **settings, **more)
        return [read_video(path)[0].tobytes() for path in paths]

    own = {"lora": [str(both)], "words": WORDS}
    alone = "[Character: Pixo], jumps."
    base_layout = Masked(layout="base", sigma=0.7)
    laid = videos("laid", [PROMPT, alone], masked=base_layout, batch_size=2, **own)
    summed = videos("summed", [PROMPT, alone], masked=Masked(sigma=0.7), batch_size=2, **own)
    pixels = [[np.frombuffer(one, np.uint8).astype(int) for one in two] for two in (laid, summed)]
    apart, alike = (float(abs(one - other).mean()) for one, other in zip(*pixels, strict=True))
    assert alike < 0.3 < apart / 3  # another batch rounds otherwise, and H.264 makes more of it
    plain = videos("plain", [alone], lora=[str(loras["pixo"])])
    assert videos("alone", [alone], masked=base_layout, **own) == plain
    base = videos("base", ["cat jumps over the moon and dog walks"])
    assert videos("to the end", [PROMPT], masked=Masked(layout="base", sigma=1e-6), **own) == base
    with pytest.raises(
        CastmixError, match=r"--masked\.layout base needs a noun for Bruk: give --words Bruk="
    ):
        videos("x", [PROMPT], masked=Masked(layout="base"), lora=[str(both)], words=WORDS[:1])
    with pytest.raises(CastmixError, match="needs a masked fusion, and no --lora or --subject is one"):
        videos("x", [PROMPT], masked=Masked(layout="base"), lora=[str(loras["pixo"])], words=WORDS)


def spans_and_length(encoders: models.Encoders, prompt: str, words: list[str]) -> tuple[object, int]:
    return tuple(encoders.token_spans(prompt, words)), encoders.prompt_length(prompt)


def test_subjects_are_found_in_both_prompts(tiny_wan: Path) -> None:
    encoders = models.load_encoders(str(tiny_wan))
    words = parse_words(WORDS)
    subjects = subjects_of(PROMPT, words)
    assert subjects == ["Pixo", "Bruk"]
    embeds = encoders.encode_text([PROMPT])
    here = subject_branch_prompt(encoders, PROMPT, embeds, subjects, words)
    assert here.spans == tuple(encoders.token_spans(PROMPT, ["Pixo", "Bruk"]))
    assert here.real == encoders.prompt_length(PROMPT)
    there = motion_branch_prompt(encoders, MOTION_PROMPT, embeds, subjects, words)
    assert there.spans == tuple(encoders.token_spans(MOTION_PROMPT, ["cat", "dog"]))
    # what the motion branch calls a token moves nothing in the subject branch: its noun is the file's
    token = {"<r>": "cat"}
    of_file = subject_branch_prompt(encoders, "<r> jumps over a dog", embeds, ["<r>", "dog"], token)
    assert (of_file.spans, of_file.real) == spans_and_length(encoders, "cat jumps over a dog", ["cat", "dog"])
    near = {"Pixo": "cat", "Bruk": "big cat"}
    one, other = motion_branch_prompt(encoders, "a cat jumps over a big cat", embeds, subjects, near).spans
    assert not {*one} & {*other}
    token = {"<r>": "big cat"}
    (one, other), _ = subject_spans(encoders, "<r> jumps over a cat", ["<r>", "cat"], token)
    assert not {*one} & {*other}
    with pytest.raises(CastmixError, match="'cat' is not in the prompt"):
        subject_spans(encoders, "<r> jumps", ["<r>", "cat"], token)
    cats, prompt = {"Pixo": "cat", "Bruk": "cat"}, "a cat jumps over a cat"
    first, second = motion_branch_prompt(encoders, prompt, embeds, subjects, cats).spans
    assert sorted([*first, *second]) == list(encoders.token_spans(prompt, ["cat"])[0])
    assert max(first) < min(second)
    with pytest.raises(
        CastmixError, match="are each called 'cat', which the motion prompt 'a cat jumps' has 1"
    ):
        motion_branch_prompt(encoders, "a cat jumps", embeds, subjects, cats)
    with pytest.raises(CastmixError, match="does not name Bruk: give its noun there, such as --words Bruk="):
        motion_branch_prompt(encoders, "a cat jumps", embeds, subjects, words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "scs", "subject": ["pixo"]}, "needs a LoRA for each branch, and there is no --motion"),
        ({"sampler": "scs-lite"}, "there is no --subject and no --motion"),
        ({"sampler": "scs", "subject": ["pixo"], "motion": "wave", "batch_size": 2}, "batch_size must be 1"),
        (
            {"sampler": "scs", "subject": ["pixo"], "motion": "wave", "num_frames": 1},
            "num_frames 5 or more, got 1",
        ),
        ({"motion_prompt": "a cat"}, "--sampler euler has none: use --sampler scs"),
        (
            {"sampler": "scs", "subject": ["pixo"], "motion": "wave", "motion_prompt": ["a", "b", "c"]},
            "given 3 times for 1 prompts",
        ),
        ({"motion_clip": Path("no.mp4")}, "--motion-clip no.mp4: no such file"),
        ({"words": ["=cat"]}, "--words =cat: expected NAME=NOUN"),
        ({"collaboration": Collaboration(every=0)}, "every must be 1 or more, got 0"),
        ({"subject": ["nothing.safetensors"]}, "--subject nothing.safetensors: no file"),
    ],
)
def test_wrong_arguments_are_errors(
    tiny_wan: Path, loras: dict[str, Path], tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    if "subject" in given:
        given["subject"] = [str(loras.get(name, name)) for name in given["subject"]]
    if "motion" in given:
        given["motion"] = str(loras[given["motion"]])
    with pytest.raises(CastmixError, match=message):
        generate(PROMPT, tmp_path / "x.mp4", **{"model": str(tiny_wan), **SMALL, **given})


def test_a_window_samples_every_second_site(
    doubled: tuple[models.Denoiser, list[Part]],
) -> None:
    denoiser, members = doubled
    x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma, shapes = torch.tensor(0.9, dtype=torch.float64), []
    for window in (0, 1):
        branch = pair(denoiser, members, Collaboration(window=window))["subject"]
        with torch.no_grad(), branch.active():
            maps = branch.read_maps(x, sigma, ["temporal"])["temporal"]
        shapes.append({tuple(one.shape[2:]) for one in maps})
    frames, rows, columns = token_grid(denoiser, x)
    places = -(-rows // 2) * -(-columns // 2)
    assert shapes == [{(rows * columns, frames, frames)}, {(places, frames, 9 * frames)}]
