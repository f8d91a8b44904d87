"""From frames of a video to scores: metrics, VBench, judges."""
