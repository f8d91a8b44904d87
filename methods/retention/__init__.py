"""Retention policies, one per module: frame policies here, token policies in `tokens`."""
