"""LoRAs that were trained apart become one: one file a method."""
