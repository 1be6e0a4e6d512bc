from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from toolkit.lora import layers as adapters
from toolkit.lora.settings import Adapter
from toolkit.models import flow_matching as flow
from toolkit.models import registry as models
from toolkit.training import objectives
from toolkit.training.batches import Batch
from toolkit.training.objectives import motion_target, velocity_loss
from toolkit.training.settings import Motion, Objective, ObjectiveName


def batch_of(count: int = 3, frames: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 16, frames, 4, 6)
    return Batch(
        latents=torch.randn(shape, generator=generator),
        prompt_embeds=torch.randn(count, 8, 24, generator=generator),
        sigma=torch.linspace(0.3, 0.95, count),
        noise=torch.randn(shape, generator=generator),
        preserved=torch.zeros(count, dtype=torch.bool),
        anchor=torch.linspace(0, 0.99, count),
    )


class Exact:
    """A denoiser that is right but for an error, the same whatever the prompt."""

    module = torch.nn.Identity()
    device = torch.device("cpu")

    def __init__(self, batch: Batch, error: Tensor | float) -> None:
        self.batch, self.error = batch, error

    def __call__(self, x: Tensor, sigma: Tensor, embeds: Tensor) -> Tensor:
        return self.batch.noise - self.batch.latents + self.error

    capture_attention: Any = None


@pytest.fixture
def denoiser(tiny_wan: Path) -> models.Denoiser:
    return trained(tiny_wan)


def trained(tiny_wan: Path, dtype: torch.dtype = torch.float32) -> models.Denoiser:
    """A network with an adapter that does something, and is being trained."""
    found = models.load_denoiser(str(tiny_wan), dtype=dtype)
    adapters.add(found.module, "a", Adapter(rank=2), seed=0)
    for name, parameter in adapters.trainable(found.module, "a").items():
        if name.endswith("B"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return found


APPEARANCE = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(5))


def losses(denoiser: models.Denoiser, batch: Batch, criterion: objectives.Criterion) -> Tensor:
    """The loss of each row, as a training step computes it."""
    x = flow.interpolate(batch.latents, batch.noise, batch.sigma)
    target = criterion.target(denoiser, x, batch)
    return criterion.loss(denoiser(x, batch.sigma, batch.prompt_embeds).float(), target, batch)


def velocity(denoiser: models.Denoiser, batch: Batch) -> Tensor:
    return losses(denoiser, batch, objectives.velocity(Objective()))


def motion(
    denoiser: models.Denoiser, batch: Batch, settings: Motion, appearance: Tensor | None = None
) -> Tensor:
    return losses(denoiser, batch, objectives.motion(Objective(motion=settings), appearance))


def test_every_objective_has_its_name() -> None:
    assert set(objectives.OBJECTIVES) == set(get_args(ObjectiveName))


def test_the_true_velocity_has_no_loss_and_a_constant_error_its_square() -> None:
    batch = batch_of()
    off = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1, 1)
    exact = Exact(batch, off)
    loss = velocity_loss(exact, batch.latents, batch.prompt_embeds, batch.sigma, batch.noise)
    assert torch.allclose(loss, torch.tensor([0.0, 1.0, 4.0]), atol=1e-5)
    assert torch.equal(velocity(exact, batch), loss)


def test_omega_zero_is_plain_training(denoiser: models.Denoiser) -> None:
    batch = batch_of()
    plain, found = velocity(denoiser, batch), motion(denoiser, batch, Motion(omega=0))
    assert torch.equal(found, plain)


def test_the_target_equals_the_papers_in_velocities(denoiser: models.Denoiser) -> None:
    """eps_free = (1 + w) eps - w eps_theta, with eps_theta = x + (1 - sigma) v_theta, at every level."""
    batch, omega = batch_of(), 0.7
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    x = flow.interpolate(batch.latents, batch.noise, batch.sigma)
    with torch.no_grad(), adapters.activate(denoiser.module, {}):
        base = denoiser(x, batch.sigma, APPEARANCE.expand(3, -1, -1))
    free = (1 + omega) * batch.noise - omega * (x + (1 - sigma) * base)
    target = motion_target(denoiser, x, batch, omega=omega, appearance=APPEARANCE)
    assert not target.requires_grad
    assert torch.allclose(x + (1 - sigma) * target, free, atol=1e-4)
    with torch.no_grad():
        trained = denoiser(x, batch.sigma, APPEARANCE.expand(3, -1, -1))
        assert not torch.allclose(trained, base, atol=1e-2)  # so it matters that the adapter was off
        assert torch.equal(denoiser(x, batch.sigma, APPEARANCE.expand(3, -1, -1)), trained)  # and is on again


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_a_fixed_target(tiny_wan: Path, precision: torch.dtype) -> None:
    denoiser = trained(tiny_wan, precision)
    batch, settings = batch_of(), Motion(omega=0.5)
    parameters = adapters.trainable(denoiser.module, "a")
    x = flow.interpolate(batch.latents, batch.noise, batch.sigma)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        target = motion_target(denoiser, x, batch, omega=0.5, appearance=APPEARANCE)
        fixed = (denoiser(x, batch.sigma, batch.prompt_embeds).float() - target).square().mean()
        wanted = torch.autograd.grad(fixed, list(parameters.values()))
        found = torch.autograd.grad(
            motion(denoiser, batch, settings, APPEARANCE).mean(), list(parameters.values())
        )
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    assert all(gradient.any() for gradient in found)


def test_preservation_rows_keep_their_true_target(denoiser: models.Denoiser) -> None:
    batch = batch_of()
    mixed = replace(batch, preserved=torch.tensor([True, False, True]))
    settings = Motion(omega=0.5, debiased=1.0, adjacent=1.0)
    plain, all_new, found = (
        velocity(denoiser, batch),
        motion(denoiser, batch, settings, APPEARANCE),
        motion(denoiser, mixed, settings, APPEARANCE),
    )
    assert torch.allclose(found[[0, 2]], plain[[0, 2]], atol=1e-5)
    assert torch.allclose(found[1], all_new[1], rtol=1e-4)
    nobody = replace(batch, preserved=torch.ones(3, dtype=torch.bool))
    assert torch.equal(motion(denoiser, nobody, Motion()), plain)


def test_the_debiased_term_ignores_errors_common_to_all_frames() -> None:
    """phi of an error that is equal in all frames is (sqrt(2) - 1) of it, of one frame alone more than it."""
    batch = batch_of(2)
    same, one = torch.ones(2, 16, 1, 4, 6), torch.zeros(2, 16, 3, 4, 6)
    one[:, :, 1] = 3**0.5
    settings = Motion(omega=0, debiased=1.0)
    shared, alone = (motion(Exact(batch, error), batch, settings) for error in (same, one))
    assert torch.allclose(shared, 1 + (2**0.5 - 1) ** 2 * torch.ones(2), atol=1e-4)
    # anchors are frames 0 and 2, where this error is none: phi is sqrt(2) of it
    assert torch.allclose(alone, torch.full((2,), 3.0), atol=1e-4)


def test_the_adjacent_term_is_the_angle_of_the_changes() -> None:
    batch = batch_of(2)
    true = batch.noise - batch.latents
    settings = Motion(omega=0, adjacent=1.0)
    offset = motion(Exact(batch, 1.0), batch, settings)  # changes from frame to frame are right
    assert torch.allclose(offset, torch.ones(2), atol=1e-4)
    against = motion(Exact(batch, -2 * true), batch, settings) - (2 * true).square().flatten(1).mean(1)
    assert torch.allclose(against, torch.full((2,), 2.0), atol=1e-4)
    still = batch_of(2, frames=1)
    assert torch.allclose(motion(Exact(still, 1.0), still, settings), torch.ones(2), atol=1e-4)


@pytest.mark.parametrize("terms", [{}, {"debiased": 1.0}, {"adjacent": 0.5}])
def test_gradients_equal_finite_differences(tiny_wan: Path, terms: dict[str, float]) -> None:
    """In a random direction of all of the adapter's numbers, the network in float64."""
    denoiser = trained(tiny_wan, torch.float64)
    denoiser.module.double()
    parameters = list(adapters.trainable(denoiser.module, "a").values())
    batch = Batch(*(one.double() if one.is_floating_point() else one for one in vars(batch_of()).values()))
    batch.preserved[-1] = True
    settings, appearance = Motion(omega=0.5, **terms), APPEARANCE.double()
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in parameters]
    gradients = torch.autograd.grad(motion(denoiser, batch, settings, appearance).sum(), parameters)
    slope = sum(float((one * way).sum()) for one, way in zip(gradients, direction, strict=True))

    @torch.no_grad()
    def moved(step: float) -> float:
        for one, way in zip(parameters, direction, strict=True):
            one += step * way
        loss = float(motion(denoiser, batch, settings, appearance).double().sum())
        for one, way in zip(parameters, direction, strict=True):
            one -= step * way
        return loss

    # a network of random numbers bends sharply and losses come out in float32: a step of the right size
    assert slope == pytest.approx((moved(1e-4) - moved(-1e-4)) / 2e-4, rel=1e-2)
    assert abs(slope) > 0.01
