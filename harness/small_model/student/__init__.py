"""Distils the small model's teacher into a student of few steps."""
