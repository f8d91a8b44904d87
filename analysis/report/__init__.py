"""The report: a folder of pages that opens from disk."""
