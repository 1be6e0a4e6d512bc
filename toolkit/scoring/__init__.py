"""Measuring videos: each family of scores in a file, what they share in `videos` and `ledger`."""
