"""Videos, clips and masks on disk: decoding, shots, index."""
