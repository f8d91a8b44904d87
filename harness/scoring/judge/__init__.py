"""Vision-language models that decide which events of a story a video shows."""
