"""Wrappers around the system's tools: volumes, XFS, mounts, processes. Each takes the runner that starts commands."""
