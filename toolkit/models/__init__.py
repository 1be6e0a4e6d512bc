"""Base models: registry, weights on disk, Wan, flow matching."""
