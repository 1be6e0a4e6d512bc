"""A drawn world with its truth, and a tiny Wan trained on it."""
