"""Footage and clips on disk: decoding, shots, masks, the index."""
