"""What others printed: the study's own data, and the numbers of papers as small files."""
