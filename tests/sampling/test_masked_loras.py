from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.attention.map_reading import MapLayers, read_maps
from toolkit.core.errors import CastmixError
from toolkit.fusion.job import note_nested
from toolkit.lora import layers as adapters
from toolkit.lora.file import Lora
from toolkit.lora.parts import Part
from toolkit.lora.special_tokens import Token
from toolkit.lora.token_gate import gate
from toolkit.models import registry as models
from toolkit.models.flow_matching import Velocity, sigma_schedule
from toolkit.sampling.denoise import denoise
from toolkit.sampling.masked_layout import PlainPrompts, base_layout_velocity
from toolkit.sampling.masked_loras import (
    PromptSubjects,
    confine,
    find_shares,
    find_subjects,
    read_shares,
    shares_from_maps,
)
from toolkit.sampling.settings import Masked

GRID = (3, 2, 3)
"""Of the tiny Wan's latents (16, 3, 4, 6), in tokens."""
LAST = "blocks.1.ffn.net.2"
SOME = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", LAST)
PROMPTED = ("blocks.0.attn2.to_k", "blocks.1.attn2.to_v")


def some_lora(denoiser: models.Denoiser, seed: int, layers: tuple[str, ...]) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in layers:
        layer = denoiser.module.get_submodule(name)
        layer = getattr(layer, "base_layer", layer)
        a = torch.randn(3, layer.in_features, generator=generator)
        tensors[name] = (0.3 * a, torch.randn(layer.out_features, 3, generator=generator))
    return Lora(tensors)


@pytest.fixture
def denoiser(tiny_wan: Path) -> models.Denoiser:
    denoiser = models.load_denoiser(str(tiny_wan))
    adapters.attach(denoiser.module, some_lora(denoiser, 1, SOME), "a")
    adapters.attach(denoiser.module, some_lora(denoiser, 2, SOME), "b")
    adapters.attach(denoiser.module, some_lora(denoiser, 3, (LAST,)), "last")
    adapters.attach(denoiser.module, some_lora(denoiser, 4, PROMPTED), "text")
    adapters.attach(denoiser.module, some_lora(denoiser, 5, PROMPTED[1:]), "more")
    return denoiser


def noise(rows: int = 1) -> Tensor:
    return torch.randn(rows, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))


def embeds(rows: int = 1) -> Tensor:
    return torch.randn(rows, 8, 24, generator=torch.Generator().manual_seed(1))


def velocity_of(denoiser: models.Denoiser, prompt_embeds: Tensor) -> Velocity:
    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return denoiser(latents, sigma, prompt_embeds)

    return velocity


def confined(denoiser: models.Denoiser, velocity: Velocity, shares: dict[str, Tensor]) -> Velocity:
    """The velocity with each active adapter's change of a token multiplied by the token's share."""
    by_token = {adapter: share.flatten(1) for adapter, share in shares.items()}

    def follow(latents: Tensor, sigma: Tensor) -> Tensor:
        with gate(denoiser.module, by_token):
            return velocity(latents, sigma)

    return follow


def test_shares_of_one_give_the_sum_and_of_zero_the_base(denoiser: models.Denoiser) -> None:
    velocity, sigma = velocity_of(denoiser, embeds()), torch.tensor(0.7)
    base = velocity(noise(), sigma)
    with adapters.activate(denoiser.module, {"a": 0.5, "b": 1}):
        plain = velocity(noise(), sigma)
        ones = confined(denoiser, velocity, {name: torch.ones(1, *GRID) for name in "ab"})
        assert torch.equal(ones(noise(), sigma), plain)
        nought = confined(denoiser, velocity, {name: torch.zeros(1, *GRID) for name in "ab"})
        torch.testing.assert_close(nought(noise(), sigma), base)
        assert torch.equal(velocity(noise(), sigma), plain)  # the gate is gone again
    assert not torch.equal(plain, base)


def test_a_token_is_changed_by_its_own_share_only(denoiser: models.Denoiser) -> None:
    """The last layer's change stays with its token: exact for every row of a guided batch."""
    share = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(5)).round()
    sigma = torch.tensor(0.7)
    velocity = velocity_of(denoiser, embeds(4))
    base = velocity(noise(4), sigma)
    with adapters.activate(denoiser.module, {"last": 1}):
        plain = velocity(noise(4), sigma)
        mine = confined(denoiser, velocity, {"last": share})(noise(4), sigma)
    pixels = share.repeat_interleave(2, -1).repeat_interleave(2, -2).repeat(2, 1, 1, 1).unsqueeze(1)
    torch.testing.assert_close(mine, torch.where(pixels.bool(), plain, base))
    assert 0 < share.mean() < 1


def test_prompt_keys_and_values_act_by_the_tokens_shares(denoiser: models.Denoiser) -> None:
    """Exact where one has all: that adapter alone, in the prompt's layers, too."""
    velocity, sigma = velocity_of(denoiser, embeds()), torch.tensor(0.7)
    base, alone = velocity(noise(), sigma), {}
    for name in ("text", "more"):
        with adapters.activate(denoiser.module, {name: 1, "last": 1}):
            alone[name] = velocity(noise(), sigma)
    ones, zeros = torch.ones(1, *GRID), torch.zeros(1, *GRID)
    with adapters.activate(denoiser.module, {"text": 1, "more": 1, "last": 1}):
        both = velocity(noise(), sigma)
        for name in ("text", "more"):
            shares = {one: ones if one == name else zeros for one in ("text", "more")}
            torch.testing.assert_close(confined(denoiser, velocity, shares)(noise(), sigma), alone[name])
        assert torch.equal(velocity(noise(), sigma), both)
    with adapters.activate(denoiser.module, {"text": 1, "more": 1}):
        nobody = {"text": zeros, "more": zeros}
        torch.testing.assert_close(confined(denoiser, velocity, nobody)(noise(), sigma), base)
    assert (alone["text"] - alone["more"]).abs().max() > 1e-3
    assert (both - alone["text"]).abs().max() > 1e-3


def test_maps_can_be_read_through_the_gate(denoiser: models.Denoiser) -> None:
    """They are those of everybody's keys."""
    ones = {name: torch.ones(1, 18) for name in ("text", "more")}
    with adapters.activate(denoiser.module, {"text": 1, "more": 1}), torch.no_grad():
        settings: dict[str, Any] = {
            "spans": [(0, 1)],
            "real": 5,
            "layers": MapLayers((0,), ()),
            "kind": "token",
        }
        plain = read_maps(denoiser, noise(), torch.tensor(0.7), embeds(), **settings)
        with gate(denoiser.module, ones):
            gated = read_maps(denoiser, noise(), torch.tensor(0.7), embeds(), **settings)
    assert torch.equal(gated, plain)


def test_shares_of_a_wrong_size_are_an_error(denoiser: models.Denoiser) -> None:
    velocity = velocity_of(denoiser, embeds(3))
    with (
        adapters.activate(denoiser.module, {"a": 1}),
        pytest.raises(CastmixError, match=r"\(2, 18\).*\(3, 18\)"),
    ):
        confined(denoiser, velocity, {"a": torch.ones(2, *GRID)})(noise(3), torch.tensor(0.5))


def blobs() -> Tensor:
    """Maps of two who walk towards each other, 5 frames of 6 x 12 tokens; one draws attention everywhere."""
    maps = torch.zeros(2, 5, 6, 12)
    for frame in range(5):
        maps[0, frame, 1:5, frame : frame + 3] = 0.02
        maps[1, frame, 1:5, 9 - frame : 12 - frame] = 0.5
    maps[1] += 0.4
    return maps


def test_each_lora_gets_its_subjects_tokens_in_every_frame() -> None:
    maps = blobs()
    found = shares_from_maps(maps, ("a", "b"), ("a", "b", "absent"))
    for frame in (0, 1, 2):  # before they meet
        for adapter, column in (("a", frame + 1), ("b", 10 - frame)):
            assert found[adapter][frame, 2:4, column].min() == 1
    assert found["absent"].max() == 0
    total = found["a"] + found["b"]
    assert torch.equal(total, torch.ones_like(total))
    assert found["a"][0, 0, 6] == 0.5  # nobody is there
    nobody = shares_from_maps(maps, ("a", "b"), ("a", "b"), Masked(nobody=0))
    assert nobody["a"][0, 0, 6] == 0


def test_voting_removes_a_stray_token() -> None:
    maps = blobs()
    maps[0, 2, 3, 8] = 0.02  # for one frame, inside the other
    assert shares_from_maps(maps, ("a", "b"), ("a", "b"), Masked(voting=0))["a"][2, 3, 8] == 1
    assert shares_from_maps(maps, ("a", "b"), ("a", "b"))["a"][2, 3, 8] == 0


def test_several_phrases_may_belong_to_one_lora() -> None:
    maps = blobs()
    joint = shares_from_maps(torch.cat([maps, maps[:1].flip(2)]), ("a", "b", "a"), ("a", "b"))
    alone = shares_from_maps(maps, ("a", "b"), ("a", "b"))
    assert joint["a"].sum() >= alone["a"].sum()
    everywhere = shares_from_maps(maps, ("a", "a"), ("a", "b"))
    assert everywhere["a"].min() == 1
    assert everywhere["b"].max() == 0


def test_a_single_named_lora_acts_everywhere(denoiser: models.Denoiser) -> None:
    velocity = velocity_of(denoiser, embeds())
    sigmas = sigma_schedule(4, 3.0)
    with adapters.activate(denoiser.module, {"a": 1}):
        alone = denoise(velocity, noise(), sigmas)
    with adapters.activate(denoiser.module, {"a": 1, "b": 1}):
        where = find_shares(
            denoiser,
            velocity,
            [PromptSubjects(((0, 1),), ("a",), 5)],
            embeds(),
            adapters=("a", "b"),
            latents=noise(),
            sigmas=sigmas,
        )
        one = confined(denoiser, velocity, where)
        torch.testing.assert_close(denoise(one, noise(), sigmas), alone)


def test_masks_are_read_at_an_early_step_of_the_plain_sum(denoiser: models.Denoiser) -> None:
    velocity, sigmas = velocity_of(denoiser, embeds(2)), sigma_schedule(6, 3.0)
    named = [PromptSubjects(((0, 1), (3,)), ("a", "b"), 5), PromptSubjects(((2,), (4,)), ("b", "a"), 6)]
    settings = Masked(sigma=0.9, layers=(1,))
    with adapters.activate(denoiser.module, {"a": 1, "b": 1}):
        found = find_shares(
            denoiser,
            velocity,
            named,
            embeds(2),
            adapters=("a", "b"),
            latents=noise(2),
            sigmas=sigmas,
            settings=settings,
        )
        step = int((sigmas > 0.9).sum())
        seen = denoise(velocity, noise(2), sigmas[: step + 1])
        for row, one in enumerate(named):
            maps = read_maps(
                denoiser,
                seen[row : row + 1],
                sigmas[step],
                embeds(2)[row : row + 1],
                spans=one.spans,
                real=one.real,
                layers=MapLayers((1,), ()),
                kind="token",
            )
            wanted = shares_from_maps(maps[0], one.owners, ("a", "b"), settings)
            for adapter in "ab":
                assert torch.equal(found[adapter][row], wanted[adapter])
                assert found[adapter].shape == (2, *GRID)
    assert 1 < step < 5


def test_the_base_layout_is_found_for_each_prompt(denoiser: models.Denoiser) -> None:
    weights, settings = {"a": 1.0, "b": 1.0}, Masked(layout="base", sigma=0.7)
    plain = PlainPrompts(
        embeds(2).flip(0), (PromptSubjects(((0, 1), (3,)), ("a", "b"), 5), PromptSubjects(((2,),), ("a",), 6))
    )
    follow = base_layout_velocity(
        denoiser,
        lambda prompts: velocity_of(denoiser, prompts),
        embeds(2),
        plain,
        weights=weights,
        adapters=("a", "b"),
        settings=settings,
    )
    high, low = torch.tensor(0.9), torch.tensor(0.6)
    early, late = follow(noise(2), high), follow(noise(2), low)
    base = velocity_of(denoiser, plain.embeds)(noise(2), high)
    torch.testing.assert_close(early[0], base[0])
    for sigma, found in ((high, early), (low, late)):
        with adapters.activate(denoiser.module, {"a": 1.0}):
            alone = velocity_of(denoiser, embeds(2))(noise(2), sigma)
        torch.testing.assert_close(found[1], alone[1])
    found = read_shares(denoiser, noise(2), low, plain.subjects, plain.embeds, ("a", "b"), settings)
    with confine(denoiser, weights, ("a", "b"), found):
        assert torch.equal(velocity_of(denoiser, embeds(2))(noise(2), low), late)


def test_subjects_are_found_by_words_and_tokens(tiny_wan: Path) -> None:
    encoders = models.load_encoders(str(tiny_wan))
    tokens = {"<moon>": Token("the moon", "output", torch.zeros(24))}
    subjects = {"a": ["Pixo", "cat"], "b": ["Bruk"], "c": ["<moon>"]}
    named = find_subjects(encoders, "[Character: Pixo], jumps over <moon>. a cats", subjects, tokens)
    assert named.owners == ("a", "c")
    plain = "[Character: Pixo], jumps over the moon. a cats"
    assert named.spans == tuple(encoders.token_spans(plain, ["Pixo", "the moon"]))
    assert named.real == encoders.prompt_length(plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Masked(sigma=0), "masked.sigma must be above 0 and up to 1, got 0"),
        (Masked(voting=-1), "masked.voting must be 0 or more, got -1"),
        (Masked(layers=(7,)), "no block 7"),
    ],
)
def test_wrong_arguments_are_errors(denoiser: models.Denoiser, settings: Masked, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        find_shares(
            denoiser,
            velocity_of(denoiser, embeds()),
            [PromptSubjects(((0,), (1,)), ("a", "b"), 5)],
            embeds(),
            adapters=("a", "b"),
            latents=noise(),
            sigmas=sigma_schedule(3, 3.0),
            settings=settings,
        )


def test_voting_includes_neighbouring_frames() -> None:
    """In one frame somebody is missed altogether; in space alone there is nobody to ask."""
    maps = blobs()
    maps[0, 2] = 0
    missed = shares_from_maps(maps, ("a", "b"), ("a", "b"), Masked(voting=0))["a"]
    assert missed[2, 2:4, 3].max() < 1
    assert shares_from_maps(maps, ("a", "b"), ("a", "b"))["a"][2, 2:4, 3].min() == 1


def test_a_nested_masked_fusion_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Part("a", Lora({}), 1.0)
    nested = Part("both", Lora({}, {"castmix.fusion": '{"method": "masked"}'}), 1.0)
    note_nested([plain, plain])
    assert "note:" not in capsys.readouterr().err
    note_nested([plain, nested])
    assert "both is a masked fusion already" in capsys.readouterr().err.replace("\n", " ")
