"""The history of one layer: by frames or by single tokens, as the method's policy decides."""
