"""The published study's tables as data (tables.yaml), from its own numbers or from results."""
