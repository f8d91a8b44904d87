"""Quantizers, retention policies and reuse policies. Imports only `harness.api` and torch."""
