"""A picture-book world: scenes as data, drawn as figures of a few parts, read from any prompt."""
