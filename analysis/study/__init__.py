"""The published study's tables as data (tables.yaml), filled with its numbers or with results."""
