"""Training of the small causal Wan: `python -m harness.small_model.training`."""
