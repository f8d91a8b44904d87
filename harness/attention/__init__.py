"""Attention over packed history: one contract, `base.Backend`, and the backends that meet it."""
