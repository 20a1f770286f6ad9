"""The checks, a module each; `healthchecker.registry` lists them."""
