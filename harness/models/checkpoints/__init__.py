"""Files of weights: find, read, rename, load, add an adapter."""
