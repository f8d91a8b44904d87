"""Text encoders, which turn prompts into the network's text rows."""
