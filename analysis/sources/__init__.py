"""Readers of results, of this project and of others."""
