"""LoRAs: file formats, layers inside a network, special tokens."""
