"""Whose pixels are whose: how a character is found in a clip, followed through it, and judged."""
