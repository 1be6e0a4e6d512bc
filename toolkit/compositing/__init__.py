"""Composites: who is cut out, where it stands in which picture, and the pixels, the words and the page."""
