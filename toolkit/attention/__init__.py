"""Maps of where each word of a prompt appears in the video."""
