"""Policies that skip denoising passes, one policy per module."""
