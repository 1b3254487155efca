"""One thing that was looked at, for a person who asks whether servers can be used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCheck:
    """What was looked at, what was found, and whether it is as it has to be."""

    name: str
    found: str
    is_good: bool = True
