"""Algorithm 1 of VideoMage on networks that are formulas, in float64."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.models.flow_matching import sigma_schedule
from toolkit.sampling.collaborative import (
    StepReport,
    branch_shares,
    collaborative_step,
    collaborative_velocity,
    guided_steps,
    moved_against,
)
from toolkit.sampling.collaborative_gradients import (
    GRADIENT_FUNCTIONS,
    Branch,
    BranchGradient,
    BranchGradients,
    BranchName,
    MapKind,
    Maps,
    attention_gradients,
    difference_gradients,
)
from toolkit.sampling.denoise import denoise
from toolkit.sampling.request import check_collaboration
from toolkit.sampling.settings import Collaboration

SHAPE = (2, 3, 4, 2, 2)  # two samples, four latent frames


@dataclass(eq=False)
class Toy:
    """A branch that is a formula: smooth maps and a velocity, and a note of what is asked of it."""

    which: float

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(int(10 * self.which))
        self.mixing = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.asked: list[tuple[str, bool]] = []
        self.depth = 0

    def velocity(self, latents: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked.append(("velocity", False))
        return torch.einsum("cd,bdfhw->bcfhw", self.mixing, latents).sin() + self.which * sigma

    def maps(self, latents: Tensor, sigma: Tensor, kind: MapKind) -> Tensor:
        mixed = torch.einsum("cd,bdfhw->bcfhw", self.mixing, latents) * (1 + sigma)
        if kind == "spatial":
            return mixed[:, :2].flatten(2).softmax(2).reshape(mixed[:, :2].shape)
        return torch.einsum("bcfhw,bcghw->bhwfg", mixed, mixed).softmax(-1)

    def read(self, latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]) -> Maps:
        assert self.depth == 1
        self.asked.append(("+".join(kinds), latents.requires_grad))
        return {kind: (self.maps(latents, sigma, kind),) for kind in kinds}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    def branch(self) -> Branch:
        return Branch(self.velocity, self.read, self.active)


@pytest.fixture
def toys() -> dict[BranchName, Toy]:
    return {"subject": Toy(0.3), "motion": Toy(-0.7)}


def branches(toys: dict[BranchName, Toy]) -> dict[BranchName, Branch]:
    return {name: toy.branch() for name, toy in toys.items()}


def latents(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numerical(loss: Any, x: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient by central differences."""
    slopes = []
    for i in range(x.numel()):
        shift = torch.zeros(x.numel(), dtype=x.dtype)
        shift[i] = step
        shift = shift.view_as(x)
        slopes.append((loss(x + shift) - loss(x - shift)) / (2 * step))
    return torch.stack(slopes).view_as(x)


SIGMA = torch.tensor(0.9, dtype=torch.float64)
BOTH: list[MapKind] = ["spatial", "temporal"]


def test_gradients_equal_finite_differences(toys: dict[BranchName, Toy]) -> None:
    """Of each loss in its own copy, the other branch's map held where it was: no gradient into it."""
    x = latents()
    found = attention_gradients(branches(toys), x, SIGMA, BOTH)
    kinds: dict[BranchName, tuple[MapKind, BranchName]] = {
        "subject": ("temporal", "motion"),
        "motion": ("spatial", "subject"),
    }
    for name, (kind, other) in kinds.items():
        constant = toys[other].maps(x, SIGMA, kind)

        def loss(
            copy: Tensor, name: BranchName = name, kind: MapKind = kind, constant: Tensor = constant
        ) -> Tensor:
            return (toys[name].maps(copy, SIGMA, kind) - constant).square().flatten(1).mean(1).sum()

        expected = numerical(loss, x)
        gradient = found.gradients[name].gradient
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-11)
        torch.testing.assert_close(found.gradients[name].loss.sum(), loss(x))

        def shared(
            copy: Tensor, name: BranchName = name, kind: MapKind = kind, other: BranchName = other
        ) -> Tensor:  # one leaf for both, as it must not be
            apart = toys[name].maps(copy, SIGMA, kind) - toys[other].maps(copy, SIGMA, kind)
            return apart.square().flatten(1).mean(1).sum()

        wrong = numerical(shared, x)
        assert (gradient - wrong).norm() > 0.1 * wrong.norm()


def test_the_lite_gradient_is_exact_with_constant_velocities(toys: dict[BranchName, Toy]) -> None:
    x = latents()
    found = difference_gradients(branches(toys), x, SIGMA, BOTH)
    with torch.no_grad():
        held = {name: toy.velocity(x, SIGMA) for name, toy in toys.items()}
    other = x - SIGMA * held["motion"]

    def loss(copy: Tensor) -> Tensor:
        return ((copy - SIGMA * held["subject"]) - other).diff(dim=2).square().flatten(1).mean(1).sum()

    assert set(found.gradients) == {"subject"}
    torch.testing.assert_close(found.gradients["subject"].gradient, numerical(loss, x), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.gradients["subject"].loss.sum(), loss(x))
    with pytest.raises(CastmixError, match="two latent frames or more"):
        difference_gradients(branches(toys), x[:, :, :1], SIGMA, BOTH)


def test_a_step_equals_algorithm_1(toys: dict[BranchName, Toy]) -> None:
    """Both copies move at once from the same x, and the step leaves from their mean."""
    x, following, alpha = latents(), torch.tensor(0.8, dtype=torch.float64), 0.4
    settings = Collaboration(beta_subject=(0.3, 0.3), beta_motion=(0.7, 0.7))
    alphas: dict[BranchName, Tensor] = {name: torch.full((2,), alpha, dtype=torch.float64) for name in toys}
    step = collaborative_step(branches(toys), settings, attention_gradients)
    ours, report = step(x, SIGMA, following, True, alphas)

    s, m = x.clone().requires_grad_(), x.clone().requires_grad_()
    loss_s = (
        toys["subject"].maps(s, SIGMA, "temporal") - toys["motion"].maps(m, SIGMA, "temporal").detach()
    ) ** 2
    loss_m = (
        toys["motion"].maps(m, SIGMA, "spatial") - toys["subject"].maps(s, SIGMA, "spatial").detach()
    ) ** 2
    (grad_s,) = torch.autograd.grad(loss_s.flatten(1).mean(1).sum(), s)
    (grad_m,) = torch.autograd.grad(loss_m.flatten(1).mean(1).sum(), m)
    with torch.no_grad():
        at_s, at_m = s - alpha * grad_s, m - alpha * grad_m
        by_s = at_s + (following - SIGMA) * toys["subject"].velocity(at_s, SIGMA)
        by_m = at_m + (following - SIGMA) * toys["motion"].velocity(at_m, SIGMA)
        torch.testing.assert_close(ours, 0.3 * by_s + 0.7 * by_m)
    assert report.alphas == {"subject": [alpha, alpha], "motion": [alpha, alpha]}
    size = grad_s.square().flatten(1).mean(1).sqrt() / x.square().flatten(1).mean(1).sqrt()
    assert report.etas["subject"] == pytest.approx((alpha * size).tolist())


def test_the_mean_copy_is_independent_of_the_prediction_type() -> None:
    """The rule of the mean copy is the same in velocities, noise and clean latents, to rounding."""
    x, sigma, following = latents(), 0.9, 0.8
    copies, velocities, beta = (
        [x + 0.1 * latents(1), x - 0.2 * latents(2)],
        [latents(3), latents(4)],
        (0.4, 0.6),
    )
    mean = sum(b * c for b, c in zip(beta, copies, strict=True))
    clean = sum(b * (c - sigma * v) for b, c, v in zip(beta, copies, velocities, strict=True))
    noise = sum(b * (c + (1 - sigma) * v) for b, c, v in zip(beta, copies, velocities, strict=True))
    own = sum(b * (c + (following - sigma) * v) for b, c, v in zip(beta, copies, velocities, strict=True))
    torch.testing.assert_close((1 - following) * clean + following * noise, own)
    torch.testing.assert_close(mean, (1 - sigma) * clean + sigma * noise)


def sample_together(
    both: dict[BranchName, Branch],
    x: Tensor,
    sigmas: Tensor,
    settings: Collaboration,
    guide: Any,
    report: Any = None,
) -> Tensor:
    return denoise(collaborative_velocity(both, sigmas, settings, guide, report), x, sigmas)


@pytest.mark.parametrize("sampler", sorted(GRADIENT_FUNCTIONS))
def test_a_zero_step_is_the_weighted_sum_of_two_velocities(toys: dict[BranchName, Toy], sampler: str) -> None:
    x, sigmas = latents(), sigma_schedule(6, 3.0).double()
    settings = Collaboration(eta=0, sigma_window=(0, 1), beta_subject=(0.25, 0.75), beta_motion=(0.75, 0.25))

    def velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        share = 0.25 * sigma + 0.75 * (1 - sigma)
        return share * toys["subject"].velocity(latents, sigma) + (1 - share) * toys["motion"].velocity(
            latents, sigma
        )

    with torch.no_grad():
        expected = denoise(velocity, x, sigmas)
    ours = sample_together(branches(toys), x, sigmas, settings, GRADIENT_FUNCTIONS[sampler])
    torch.testing.assert_close(ours, expected)
    moved = sample_together(
        branches(toys), x, sigmas, replace(settings, eta=0.05), GRADIENT_FUNCTIONS[sampler]
    )
    assert (moved - expected).norm() > 1e-3 * expected.norm()


def test_a_share_of_one_equals_that_branch_alone(toys: dict[BranchName, Toy]) -> None:
    """At share 1 the other is not even asked for its velocity; a branch that agrees does not move."""
    x, sigmas = latents(), sigma_schedule(5, 3.0).double()
    with torch.no_grad():
        alone = denoise(toys["subject"].velocity, x, sigmas)
    settings = Collaboration(beta_subject=(1, 1), beta_motion=(0, 0), spatial=False, temporal=False)
    toys["motion"].asked.clear()
    both = sample_together(branches(toys), x, sigmas, settings, attention_gradients)
    torch.testing.assert_close(both, alone)
    assert toys["motion"].asked == []
    same = {"subject": toys["subject"].branch(), "motion": toys["subject"].branch()}
    for guide in GRADIENT_FUNCTIONS.values():
        twice = sample_together(same, x, sigmas, Collaboration(eta=0.1), guide)  # type: ignore[arg-type]
        torch.testing.assert_close(twice, alone)


def test_maps_are_read_in_three_passes(toys: dict[BranchName, Toy]) -> None:
    """Three short passes, gradients in two, and each constant before the maps that follow it."""
    asked: list[tuple[str, str, bool]] = []

    def noted(name: BranchName) -> Branch:
        toy = toys[name].branch()

        def read(latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]) -> Maps:
            asked.append((name, "+".join(kinds), latents.requires_grad))
            return toy.read_maps(latents, sigma, kinds)

        return replace(toy, read_maps=read)

    pair: dict[BranchName, Branch] = {"subject": noted("subject"), "motion": noted("motion")}
    attention_gradients(pair, latents(), SIGMA, BOTH)
    assert asked == [
        ("motion", "temporal", False),
        ("subject", "temporal+spatial", True),
        ("motion", "spatial", True),
    ]
    for kind, expected in {
        "temporal": [("motion", "temporal", False), ("subject", "temporal", True)],
        "spatial": [("subject", "spatial", False), ("motion", "spatial", True)],
    }.items():
        asked.clear()
        found = attention_gradients(pair, latents(), SIGMA, [kind])  # type: ignore[list-item]
        assert asked == expected
        assert len(found.gradients) == 1


def test_losses_fall_under_small_steps(toys: dict[BranchName, Toy]) -> None:
    pair, x = branches(toys), latents()
    before = attention_gradients(pair, x, SIGMA, BOTH)
    for name, kind, other in (("subject", "temporal", "motion"), ("motion", "spatial", "subject")):
        pull = before.gradients[name]  # type: ignore[index]
        moved, alpha, eta = moved_against(x, pull.gradient, 0.02)
        constant = toys[other].maps(x, SIGMA, kind)  # type: ignore[index,arg-type]
        after = (toys[name].maps(moved, SIGMA, kind) - constant).square().flatten(1).mean(1)  # type: ignore[index,arg-type]
        assert (after < pull.loss).all()
        torch.testing.assert_close(eta, torch.full_like(eta, 0.02))
        rms = (moved - x).square().flatten(1).mean(1).sqrt() / x.square().flatten(1).mean(1).sqrt()
        torch.testing.assert_close(rms, eta)
        assert (alpha > 0).all()


def test_a_normalised_step_is_independent_of_the_gradients_scale() -> None:
    """A gradient a thousand times smaller moves as far; a constant alpha a thousand times less."""
    x, gradient = latents(), latents(1)
    near, alpha, _ = moved_against(x, gradient, 0.03)
    far, grown, _ = moved_against(x, gradient / 1000, 0.03)
    torch.testing.assert_close(near, far)
    torch.testing.assert_close(grown, 1000 * alpha)
    small, _, eta = moved_against(x, gradient / 1000, 0.03, alpha)
    torch.testing.assert_close(x - small, (x - near) / 1000)
    torch.testing.assert_close(eta, torch.full_like(eta, 3e-5))
    still, _, eta = moved_against(x, torch.zeros_like(x), 0.03)
    assert torch.equal(still, x)
    assert eta.tolist() == [0, 0]
    with pytest.raises(CastmixError, match="not finite"):
        moved_against(x, gradient / 0, 0.03)


def test_samples_of_a_batch_are_independent(toys: dict[BranchName, Toy]) -> None:
    x, sigmas = latents(), sigma_schedule(5, 3.0).double()
    settings = Collaboration(eta=0.05, freeze=True)
    together = sample_together(branches(toys), x, sigmas, settings, attention_gradients)
    for i in range(2):
        alone = sample_together(branches(toys), x[i : i + 1], sigmas, settings, attention_gradients)
        torch.testing.assert_close(together[i : i + 1], alone)


def reports(toys: dict[BranchName, Toy], settings: Collaboration, steps: int = 12) -> list[StepReport]:
    found: list[StepReport] = []
    sigmas = sigma_schedule(steps, 3.0).double()
    sample_together(branches(toys), latents(), sigmas, settings, attention_gradients, found.append)
    return found


def test_the_log_has_every_step(toys: dict[BranchName, Toy]) -> None:
    log = reports(toys, Collaboration(eta=0.05, sigma_window=(0.77, 1.0), every=2))
    sigmas = sigma_schedule(12, 3.0).tolist()
    assert [report.sigma for report in log] == pytest.approx(sigmas[:-1])
    inside = [i for i, sigma in enumerate(sigmas) if sigma > 0.77]
    assert [i for i, report in enumerate(log) if report.guided] == inside[::2]
    for report in log:
        assert set(report.losses) == set(report.etas) == (set(toys) if report.guided else set())
        assert report.shares == {"subject": 0.5, "motion": 0.5}
        for etas in report.etas.values():
            assert etas == pytest.approx([0.05, 0.05])
    first, second = (report for report in log if report.guided and report.sigma > 0.9)
    assert first.alphas["subject"] != second.alphas["subject"]


def test_a_frozen_step_keeps_the_first_alpha(toys: dict[BranchName, Toy]) -> None:
    free, frozen = (
        [report for report in reports(toys, Collaboration(eta=0.05, freeze=freeze)) if report.guided]
        for freeze in (False, True)
    )
    assert frozen[0].alphas == free[0].alphas
    for before, after in itertools.pairwise(frozen):
        assert after.alphas == before.alphas
        assert after.etas != before.etas
    constant = [report for report in reports(toys, Collaboration(alpha=7.0)) if report.guided]
    assert {alpha for report in constant for alphas in report.alphas.values() for alpha in alphas} == {7.0}


def test_a_zero_gradient_does_not_set_the_kept_alpha(toys: dict[BranchName, Toy]) -> None:
    calls = itertools.count()

    def guide(both: Any, x: Tensor, sigma: Tensor, kinds: Collection[MapKind]) -> BranchGradients:
        found = attention_gradients(both, x, sigma, kinds)
        if next(calls):
            return found
        none = {
            name: BranchGradient(0 * pull.gradient, 0 * pull.loss) for name, pull in found.gradients.items()
        }
        return replace(found, gradients=none)

    log: list[StepReport] = []
    settings = Collaboration(eta=0.05, freeze=True)
    sigmas = sigma_schedule(12, 3.0).double()
    found = sample_together(branches(toys), latents(), sigmas, settings, guide, log.append)
    assert found.isfinite().all()
    guided = [report.alphas for report in log if report.guided]
    assert guided[1] != guided[0]
    assert all(alphas == guided[1] for alphas in guided[2:])


def test_shares_and_window_follow_sigma() -> None:
    settings = Collaboration(beta_subject=(1, 3), beta_motion=(3, 1))
    assert branch_shares(settings, 1.0) == {"subject": 0.25, "motion": 0.75}
    assert branch_shares(settings, 0.5) == {"subject": 0.5, "motion": 0.5}
    assert branch_shares(settings, 0.0) == {"subject": 0.75, "motion": 0.25}
    sigmas = sigma_schedule(50, 3.0)
    # counted by hand from s u / (1 + (s - 1) u), see the schedule's own tests
    for low, count in ((0.77, sum(sigmas.tolist()[i] > 0.77 for i in range(50))), (0.0, 50)):
        assert guided_steps(sigmas, Collaboration(sigma_window=(low, 1.0))) == set(range(count))
    assert guided_steps(sigmas, Collaboration(sigma_window=(0.0, 0.5), every=1)) == {
        i for i, sigma in enumerate(sigmas[:-1].tolist()) if sigma <= 0.5
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sigma_window": (0.9, 0.2)}, "sigma_window must be two rising noise levels in .0, 1., got 0.9,0.2"),
        ({"every": 0}, "every must be 1 or more, got 0"),
        ({"eta": -1.0}, "eta must be 0 or more"),
        ({"eta": float("nan")}, "eta must be 0 or more"),
        ({"inversion": 1.5}, "inversion is a share"),
        ({"beta_subject": (0, 1), "beta_motion": (0, 1)}, "not be negative, nor both 0 at one end"),
        ({"beta_motion": (-0.5, 1)}, "not be negative"),
    ],
)
def test_wrong_settings_are_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        check_collaboration(Collaboration(**wrong))
    check_collaboration(Collaboration())


def test_branches_with_different_numbers_of_subjects_are_an_error(toys: dict[BranchName, Toy]) -> None:
    pair = branches(toys)

    def fewer(latents: Tensor, sigma: Tensor, kinds: Collection[MapKind]) -> Maps:
        found = toys["motion"].read(latents, sigma, kinds)
        return {kind: (maps[:, :1],) for kind, (maps,) in found.items()}

    pair["motion"] = replace(pair["motion"], read_maps=fewer)
    with pytest.raises(CastmixError, match="both prompts must name the same number of subjects"):
        attention_gradients(pair, latents(), SIGMA, ["spatial"])
