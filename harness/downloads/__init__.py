"""Weights and prompt lists: what is described, where it lies, how it is fetched."""
