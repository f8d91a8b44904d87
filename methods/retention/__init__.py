"""What an old frame becomes: one policy a module."""
