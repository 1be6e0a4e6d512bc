"""Base models: the registry, weights on disk, Wan, flow matching."""
