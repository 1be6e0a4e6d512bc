"""The tiny SAM 2 of the sandbox: its training and its report."""
