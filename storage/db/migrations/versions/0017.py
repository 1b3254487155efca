"""The ledger of coverage may hold the states stream_broken, overloaded and moved.

Safe while an older release writes: no table changes, and nobody claims these states before `ingest`
is upgraded, which comes last. The revision is there so that a release which does not know them is
refused when it starts again, and reads neither them nor claims of them.
"""

revision = "0017"
down_revision = "0016"
safe_while_older_writes = True


def upgrade() -> None:
    """Change nothing."""
