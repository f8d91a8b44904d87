"""What a run computes: whether it follows given settings, and its FLOPs."""
