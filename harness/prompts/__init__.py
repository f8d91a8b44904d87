"""Prompt suites, story events and the prompt lists that ship with the package."""
