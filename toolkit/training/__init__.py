"""Training: cached clips, batches, objectives, the loop, checkpoints."""
