"""Which denoising passes are not run: one policy a module."""
