"""Masks of characters: detectors, trackers, quality gates."""
