"""Quantizers: how stored keys and values are encoded, one quantizer per module."""
