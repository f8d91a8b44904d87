"""Figures: descriptions of what they show, and two renderers."""
