"""Waiting for conditions."""

import time
from collections.abc import Callable

from cluster.errors import ClusterError


def until(condition: Callable[[], bool], deadline: float, what: str, pause: float = 0.05) -> None:
    """Ask `condition` until it holds; `what` names it in the error. deadline: seconds from now.

    Raises ClusterError when the deadline has passed, and whatever `condition` raises.
    """
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise ClusterError(f"waited {deadline:g} s for {what}")
        time.sleep(pause)
