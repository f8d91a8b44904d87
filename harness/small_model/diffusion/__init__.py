"""Training of the small model's teacher: diffusion forcing on the picture-book world."""
