"""Base models: one network file, presets in `conf/model/`, loader, text encoders, decoders."""
