"""What history becomes: one policy a module, frame policies here, token policies in `tokens`."""
