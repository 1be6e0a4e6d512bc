"""LoRA files, layers inside a network, parts of a fusion, special tokens."""
