"""What can go wrong with a cluster, as one line for the person who asked."""


class ClusterError(Exception):
    """Something that was asked of a cluster did not happen; the text says what was asked, found, and what to do."""
