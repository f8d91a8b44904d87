"""Reads results and never runs a model."""
