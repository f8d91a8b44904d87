"""The subject of study: quantizers and retention policies. Imports `harness.api` and torch only."""
