"""The report: a folder of pages that opens from disk, made from sections and folders of runs."""
