"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def footage() -> Path:
    """The folder of real footage, or a skip that says how to get it."""
    folder = Path(os.environ.get("CASTMIX_FOOTAGE", REPOSITORY.parent / "shared" / "footage"))
    if not folder.is_dir():
        pytest.skip(f"no real footage at {folder}: set CASTMIX_FOOTAGE to a folder that has it")
    return folder


# `tiny_wan` (a folder with a random tiny WanPipeline, session-scoped) goes here: it belongs to models/.
