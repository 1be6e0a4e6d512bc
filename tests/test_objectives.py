from __future__ import annotations

import torch
from torch import Tensor

from toolkit import flow
from toolkit.objectives import OBJECTIVES, velocity_loss


def test_the_true_velocity_has_no_loss_and_a_constant_error_its_square() -> None:
    latents, noise, embeds = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2), torch.randn(3, 5, 6)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    off = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1, 1)

    class Denoiser:
        module = torch.nn.Identity()
        device = torch.device("cpu")

        def __call__(self, x: Tensor, s: Tensor, e: Tensor) -> Tensor:
            assert torch.equal(x, flow.interpolate(latents, noise, sigma))
            assert torch.equal(s, sigma)
            assert torch.equal(e, embeds)
            return noise - latents + off

    loss = velocity_loss(Denoiser(), latents, embeds, sigma, noise)
    assert torch.allclose(loss, torch.tensor([0.0, 1.0, 4.0]), atol=1e-5)
    assert OBJECTIVES["velocity"] is velocity_loss
