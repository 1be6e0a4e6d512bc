"""The command line, made from the verbs' signatures, and presets."""
