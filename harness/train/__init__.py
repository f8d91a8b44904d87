"""Training of the small causal Wan: `python -m harness.train`."""
