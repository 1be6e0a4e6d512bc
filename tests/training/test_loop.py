"""One training step is the gradient of the velocity error over the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.commands.cache import cache
from toolkit.lora.settings import Adapter
from toolkit.training import loop
from toolkit.training.assemble import assemble
from toolkit.training.batches import draw
from toolkit.training.plan import Plan, check
from toolkit.training.settings import Batches, Memory, Objective, Optim, Sigma, Watch


@pytest.fixture
def plan(tmp_path: Path, make_clips: Callable[..., Path], tiny_wan: Path) -> Plan:
    """Batches of two clips to learn from and two shorter ones to preserve: two latent shapes."""
    show = make_clips(tmp_path / "show", 3)
    world = make_clips(tmp_path / "world", 3, name="Bruk", num_frames=5)
    for folder in (show, world):
        cache(folder, model=str(tiny_wan))
    return check(
        [show],
        tmp_path / "run",
        model=str(tiny_wan),
        steps=9,
        seed=1,
        restart=False,
        adapter=Adapter(rank=2, alpha=4),
        optim=Optim(lr=0.5, warmup=0, grad_clip=0),
        batches=Batches(batch_size=4, preserve=world, preserve_share=0.5, caption_dropout=0, holdout=0),
        objective=Objective(sigma=Sigma(shift=2.0)),
        memory=Memory(),
        watch=Watch(),
    )


def run_of(plan: Plan) -> tuple[loop.Run, dict[str, torch.Tensor]]:
    """A run with plain gradient descent and an adapter that does something; and the adapter's numbers."""
    run = assemble(plan)
    generator = torch.Generator().manual_seed(0)
    for parameter in run.parameters.values():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    optimizer = torch.optim.SGD(run.parameters.values(), lr=0.0)
    before = {name: parameter.detach().clone() for name, parameter in run.parameters.items()}
    return dataclasses.replace(run, optimizer=optimizer), before


def test_a_step_descends_the_mean_velocity_error_of_all_rows(plan: Plan) -> None:
    run, before = run_of(plan)
    rows, losses = [], {False: [], True: []}
    batches = list(draw(plan.mix, run.prompts, 3, plan.objective.sigma, 2.0))
    assert len({batch.latents.shape[2:] for batch in batches}) == 2
    for batch in batches:
        for x0, noise, sigma, prompt, preserved in zip(
            batch.latents, batch.noise, batch.sigma, batch.prompt_embeds, batch.preserved, strict=True
        ):
            x = ((1 - sigma) * x0 + sigma * noise).unsqueeze(0)
            velocity = run.denoiser(x, sigma.unsqueeze(0), prompt.unsqueeze(0))[0]
            rows.append((velocity - (noise - x0)).square().mean())
            losses[bool(preserved)].append(rows[-1].item())
    wanted = torch.autograd.grad(torch.stack(rows).mean(), list(run.parameters.values()))
    values = loop.train_step(run, 3)
    for (name, parameter), gradient in zip(run.parameters.items(), wanted, strict=True):
        torch.testing.assert_close(parameter.data, before[name] - 0.5 * gradient, rtol=1e-4, atol=1e-6)
        assert parameter.grad is None
    assert values["loss"] == pytest.approx(sum(losses[False]) / 2, rel=1e-4)
    assert values["loss_preserve"] == pytest.approx(sum(losses[True]) / 2, rel=1e-4)
    assert values["lr"] == 0.5
    norm = torch.stack([gradient.norm() for gradient in wanted]).norm()
    assert values["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_a_large_gradient_is_clipped(plan: Plan) -> None:
    run, before = run_of(dataclasses.replace(plan, optim=dataclasses.replace(plan.optim, grad_clip=1e-3)))
    values = loop.train_step(run, 0)
    assert values["grad_norm"] > 1e-2
    moved = torch.stack([(one.data - before[name]).norm() for name, one in run.parameters.items()]).norm()
    assert float(moved) == pytest.approx(0.5 * 1e-3, rel=1e-2)
