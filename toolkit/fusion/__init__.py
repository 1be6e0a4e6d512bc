"""Several LoRAs that were trained apart made into one: `castmix fuse` chooses among these methods."""
