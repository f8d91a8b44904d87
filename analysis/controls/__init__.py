"""Pairs methods that skip passes or evict tokens with plain ones of equal cost."""
