"""Composes command lines to configurations, and turns these into runs."""
