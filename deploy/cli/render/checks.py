"""Lines about the checks of servers."""

from storage.connection_check import ConnectionCheck


def format_check(check: ConnectionCheck) -> str:
    """Write the result of a check as one line."""
    return f"{'ok' if check.is_good else 'problem':8} {check.name}: {check.found}"
