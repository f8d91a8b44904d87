"""One file per verb of `python -m harness`."""
