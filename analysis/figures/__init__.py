"""Figures: descriptions, and two renderers."""
