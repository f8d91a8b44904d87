"""What a run is, and its files: request, observations, scores, manifest, videos."""
