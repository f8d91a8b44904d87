"""General tools, independent of video: errors, files, units, hashes, progress, text tables."""
