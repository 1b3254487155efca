"""One result of checking whether servers can be used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCheck:
    """What was checked, the result in words, and whether it is good."""

    name: str
    found: str
    is_good: bool = True
