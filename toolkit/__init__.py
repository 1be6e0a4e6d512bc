"""castmix: fine-tune a cast of characters from show footage and mix them in one video."""

from __future__ import annotations

__version__ = "0.1.0"
