"""The controller's daemon: it owns buffers, allocations and jobs, and tells datanodes what should exist."""
