"""Scores of videos: metrics, judges, tables and the report."""
