"""Random generators: every draw has one of its own."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, step: int, name: str) -> torch.Generator:
    """The CPU random generator of one named draw at one step.

    Every random number of castmix comes from such a generator, so a run that is interrupted and goes on draws
    the same numbers as one that is not, on any device and in any number of processes.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
