"""Vision-language models that say which events of a story a video shows."""
