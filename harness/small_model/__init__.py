"""The second version of the small model: its world (`scenes`) and its training (`diffusion`)."""
