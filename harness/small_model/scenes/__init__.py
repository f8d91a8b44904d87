"""A picture-book world: scenes as data, parsed from prompts and drawn as simple figures."""
