"""Who decides: the person whose name stands beside a decision in the store."""

import getpass


def person() -> str:
    """Return the name of the user who runs the dashboard; empty where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user id has no name
        return ""
