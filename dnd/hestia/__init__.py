"""Datasets as objects: a client of the site's object store, and the two-line files that name a dataset's objects."""
