"""Measurements against the budgets of the design: `make bench`."""
