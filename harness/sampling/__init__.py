"""How a video is sampled: schedule, order of passes, noise, what is asked of a network."""
