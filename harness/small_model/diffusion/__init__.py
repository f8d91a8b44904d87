"""Trains the small model's teacher with diffusion forcing on the picture-book world."""
