"""From prompts to the rows that a network reads."""
