"""What a role does with the log: the access rights that a broker checks."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAccess:
    """The topics that a role reads and writes, and the groups that it joins."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def __or__(self, other: "LogAccess") -> "LogAccess":
        """Return the access that both need."""
        return LogAccess(
            reads=self.reads | other.reads,
            writes=self.writes | other.writes,
            groups=self.groups | other.groups,
        )
