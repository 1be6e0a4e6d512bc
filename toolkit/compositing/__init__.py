"""Cuts characters out of one show and pastes them into another."""
