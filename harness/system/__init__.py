"""Nothing about video: errors, files, units, hashes, versions, progress, text tables."""
