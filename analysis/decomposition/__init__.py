"""Takes a published speed-up apart: which part of the system each factor belongs to."""
