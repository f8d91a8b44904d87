"""Metrics: one module each, chosen and configured by `conf/metrics`."""
