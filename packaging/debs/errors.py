"""The one error of the builder."""


class BuildError(Exception):
    """What was asked, what was found, what to do: one line for whoever builds."""
