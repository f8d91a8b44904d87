"""Runs the official VBench package in a separate environment and process."""
