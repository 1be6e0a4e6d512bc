"""Locates castmix's data folders: beside the package in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def presets_folder() -> Path:
    """Return the folder ``presets/``."""
    return _first(PACKAGE / "_data" / "presets", PACKAGE.parent / "presets")


def character_data_folder() -> Path:
    """Return the folder ``character_data/``."""
    return _first(PACKAGE / "character_data", PACKAGE.parent / "character_data")


def _first(installed: Path, checkout: Path) -> Path:
    return installed if installed.is_dir() else checkout
