"""Published data: the study's observations, and numbers of papers as small files."""
