"""Merges separately trained LoRAs into one: one file per method."""
