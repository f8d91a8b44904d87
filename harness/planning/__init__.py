"""Predicts bytes, peaks and time of a run; collects facts about methods and models."""
