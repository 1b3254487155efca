"""What a role does with the log, for a broker that asks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAccess:
    """The topics that a role reads and writes, and the readers that it joins."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __or__(self, other: "LogAccess") -> "LogAccess":
        """Return what both need."""
        return LogAccess(
            reads=self.reads | other.reads,
            writes=self.writes | other.writes,
            groups=self.groups | other.groups,
        )
