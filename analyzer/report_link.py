"""Where to find a run as one file: what a notification says of it."""

from urllib.parse import quote


def report_address(run_id: str, page: str) -> str:
    """Return where the dashboard serves a run's report.

    Args:
        page: address of the dashboard, without a slash at its end.
    """
    return f"{page}/report/{quote(run_id, safe='')}"


def report_command(run_id: str) -> str:
    """Return the command that writes a run's report."""
    return f"foreshock report {run_id[:8]}"
