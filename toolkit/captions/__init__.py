"""The tag grammar, the cast registry, text files, captioners."""

from toolkit.captions.grammar import Caption, Clause, format, parse, tag, validate

__all__ = ["Caption", "Clause", "format", "parse", "tag", "validate"]
