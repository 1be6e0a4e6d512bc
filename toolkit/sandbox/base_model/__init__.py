"""The tiny Wan of the sandbox: its codec, its training, its report."""
