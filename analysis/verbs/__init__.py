"""Verbs of `python -m analysis` that serve a whole package: their arguments, what they do."""
