"""Checks of methods, models and folders of results."""
