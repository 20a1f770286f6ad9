"""Builds Debian packages from packages.toml (`packaging/build`): recipe -> root, parts -> tree -> archive."""
