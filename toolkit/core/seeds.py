"""Seeded random generators: one for each named random sample of each step."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, step: int, name: str) -> torch.Generator:
    """Return the CPU random generator for one named sample at one step.

    The generator depends on (seed, step, name) only. A resumed run therefore samples the same numbers as an
    uninterrupted one, on any device and with any number of processes.
    """
    digest = hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
