"""Scores the frames of videos: metrics, VBench, judges."""
