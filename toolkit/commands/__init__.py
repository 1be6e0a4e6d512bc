"""The verbs, one a file: each is one function and one command."""
