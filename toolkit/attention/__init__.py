"""Where a prompt's words are in the picture: maps read from a network's attention."""
