"""Checks of methods, models and results folders."""
