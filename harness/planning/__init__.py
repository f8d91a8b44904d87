"""Bytes, peaks and time of a run before anything runs; facts about methods and models."""
