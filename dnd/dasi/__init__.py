"""DASI buffers: a volume and an export for each root of the user's DASI configuration."""
