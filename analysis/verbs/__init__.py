"""Verbs of `python -m analysis` that serve a whole package."""
