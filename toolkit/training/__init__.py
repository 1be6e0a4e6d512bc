"""Cached clips, batches, objectives, the loop, checkpoints."""
