"""Figures: what they show, and the two ways of drawing them."""
