"""The virtual kind of cluster: every node a kernel of its own, a user-mode-linux process."""
