"""Scores of videos: metrics, judges, tables, HTML report."""
