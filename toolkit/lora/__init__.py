"""LoRA files, LoRA layers inside a network, special tokens."""
