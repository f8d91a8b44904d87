"""One module a verb of `python -m analysis`: its arguments, and what it does with them."""
