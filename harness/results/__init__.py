"""Runs and their files: request, observations, scores, manifest, videos."""
