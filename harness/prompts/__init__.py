"""Prompt suites, story events and the lists that ship."""
