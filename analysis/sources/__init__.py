"""Readers of results: folders of this project and published data."""
