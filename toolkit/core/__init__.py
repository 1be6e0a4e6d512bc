"""Shared by all: errors, files, seeds, progress, run records."""
