"""What a step of collaborative sampling costs, against plain sampling with guidance in the same run.

    python benchmarks/collaboration.py --size sandbox
    python benchmarks/collaboration.py --size wan-1.3b --repeat 3      # a GPU with 24 GB or more

Times are in forward passes of one video with one prompt: plain guidance is two of them. On a CPU they are
seconds of this process on a core, so that other programs matter little; on a GPU, seconds by the clock.
Memory is the largest that the process held in a step, weights included, VAE and text encoder not. Weights and
latents are random: none of this depends on what they are.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.lora.layers import activate, add
from toolkit.lora.settings import Adapter
from toolkit.models.flow_matching import sigma_schedule
from toolkit.models.interfaces import Denoiser
from toolkit.models.registry import load_denoiser
from toolkit.sampling.collaborative import collaborative_step, guided_steps
from toolkit.sampling.collaborative_branches import BranchPrompt, make_branch
from toolkit.sampling.collaborative_gradients import GRADIENT_FUNCTIONS, Branch, BranchName
from toolkit.sampling.denoise import guided_velocity
from toolkit.sampling.settings import Collaboration

SIZES: dict[str, tuple[dict[str, int] | None, tuple[int, int, int, int], tuple[int, int]]] = {
    # network (none: the sandbox's base), latents, prompt positions and their width
    "sandbox": (None, (48, 5, 8, 12), (64, 128)),
    "reduced": (
        {"num_attention_heads": 3, "ffn_dim": 1536, "num_layers": 12, "text_dim": 512},
        (16, 5, 16, 24),
        (512, 512),
    ),
    "wan-1.3b": (
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096},
        (16, 21, 60, 104),
        (512, 4096),
    ),
}
STEPS, SHIFT = 50, 3.0
GUIDED = {"checkpointed": True, "kept": False}


def network(size: str) -> Denoiser:
    """The network of a size, on the GPU if there is one."""
    config, _, _ = SIZES[size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config is None:
        return load_denoiser("sandbox", device)
    from diffusers import WanTransformer3DModel

    from toolkit.models.wan import WanDenoiser, default_dtype

    untyped: Any = WanTransformer3DModel
    with device:
        module = untyped(attention_head_dim=128, in_channels=16, out_channels=16, **config)
    if device.type == "cuda":  # as it is loaded: some parts stay float32
        for name, part in module.named_modules():
            if not any(word in name for word in module._keep_in_fp32_modules) and not list(part.children()):
                part.to(default_dtype(device))
    return WanDenoiser(module.eval().requires_grad_(False))


def branches_of(denoiser: Denoiser, size: str, checkpointing: bool) -> dict[BranchName, Branch]:
    """Two branches with a rank-32 LoRA each and a prompt of two subjects."""
    _, _, (length, width) = SIZES[size]
    branches: dict[BranchName, Branch] = {}
    names: tuple[BranchName, ...] = ("subject", "motion")
    for name in names:
        embeds = torch.randn(1, length, width, generator=torch.Generator().manual_seed(1))
        embeds[:, 40:] = 0
        prompted = BranchPrompt(embeds, ((4, 5), (12, 13)), 40)
        active = functools.partial(activate, denoiser.module, {name: 1.0})
        velocity = guided_velocity(denoiser, embeds, torch.zeros_like(embeds), 5.0)
        settings = Collaboration(checkpointing=checkpointing)
        branches[name] = make_branch(denoiser, prompted, velocity, active, settings)
    return branches


def steps_of(denoiser: Denoiser, size: str, latents: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that is measured, by name."""
    sigma, following = (torch.tensor(level, device=latents.device) for level in (0.9, 0.88))
    plain = branches_of(denoiser, size, True)
    embeds = torch.zeros(1, *SIZES[size][2])

    def forward() -> object:
        with torch.no_grad(), activate(denoiser.module, {"subject": 1.0}):
            return denoiser(latents, sigma, embeds)

    def step(sampler: str, guided: bool, checkpointing: bool = True) -> Callable[[], object]:
        pair = plain if checkpointing else branches_of(denoiser, size, False)
        one = collaborative_step(pair, Collaboration(), GRADIENT_FUNCTIONS[sampler])
        return lambda: one(latents, sigma, following, guided, {})

    def euler() -> object:
        with torch.no_grad():
            return plain["subject"].velocity(latents, sigma)

    return {
        "forward": forward,
        "plain guidance": euler,
        "scs, unguided step": step("scs", False),
        "scs-lite, guided step": step("scs-lite", True),
        **{f"scs, guided step, activations {how}": step("scs", True, on) for how, on in GUIDED.items()},
    }


def seconds(device: torch.device) -> float:
    """The clock that is read: of this process on a CPU, of the wall on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_reset(device: torch.device) -> None:
    """Begin to watch memory anew."""
    if device.type == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> float:
    """The most memory held since, in MiB: resident on a CPU, allocated on a GPU."""
    if device.type == "cpu":
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    return torch.cuda.max_memory_allocated() / 2**20


def measure(size: str, repeat: int) -> None:
    """Print the table."""
    denoiser = network(size)
    for name in ("subject", "motion"):
        add(denoiser.module, name, Adapter(rank=32), seed=0)
    _, shape, _ = SIZES[size]
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(denoiser.device)
    found: dict[str, tuple[float, float]] = {}
    for name, run in steps_of(denoiser, size, latents).items():
        times = []
        peak_reset(denoiser.device)
        warm = repeat > 1  # the first one does not count, unless it is all there is
        for i in range(repeat + warm):
            before = seconds(denoiser.device)
            run()
            if i >= warm:
                times.append(seconds(denoiser.device) - before)
        found[name] = (statistics.median(times), peak(denoiser.device))
    unit, (plain, base) = found["forward"][0], found["plain guidance"]
    print(f"{size}, latents {shape}, {denoiser.device}, a forward takes {unit:.3f} s\n")
    print("| | forwards | against plain | peak MiB | against plain |\n|---|---|---|---|---|")
    for name, (time_, memory) in found.items():
        print(f"| {name} | {time_ / unit:.2f} | {time_ / plain:.2f} | {memory:.0f} | {memory / base:.2f} |")
    free = found["scs, unguided step"][0]
    print(f"\n{STEPS} steps, shift {SHIFT:g}, against plain sampling:")
    for every in (1, 2, 3):
        count = len(guided_steps(sigma_schedule(STEPS, SHIFT), Collaboration(every=every)))
        told = []
        for how in GUIDED:
            guided = found[f"scs, guided step, activations {how}"][0]
            told.append(f"{(count * guided + (STEPS - count) * free) / (STEPS * plain):.2f} ({how})")
        print(f"- every {every}: {count} guided steps, {' or '.join(told)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="sandbox")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    measure(given.size, given.repeat)
