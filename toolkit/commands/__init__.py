"""One verb per file: each is one function and one command."""
