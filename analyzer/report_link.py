"""Where to find a run as one file: what a notification says of it."""

from urllib.parse import quote


def report_line(run_id: str, page: str = "") -> str:
    """Return how to get a run's report.

    Args:
        page: address of the dashboard, without a slash at its end; empty where it is not known: then the command is named.
    """
    where = f"{page}/report/{quote(run_id, safe='')}" if page else f"foreshock report {run_id[:8]}"
    return f"The whole run in one file: {where}"
