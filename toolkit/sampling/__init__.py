"""From prompts to videos: samplers, guidance, masked LoRAs."""
