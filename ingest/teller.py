"""Append windows and claims to the log, in the order in which they are true."""

from collections.abc import Iterable
from dataclasses import replace

from storage.claims import Claim, encode_claim
from storage.log import COVERAGE, WINDOWS, Log, Message
from storage.records import Window
from storage.wire import encode_window


class Teller:
    """Append windows and claims to the log; claims that a full disk refuses come first later."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._untold: list[Claim] = []

    def tell(self, claims: Iterable[Claim]) -> None:
        """Append all claims that are not in the log yet; where storage is blocked they wait."""
        self._hold(claims)
        if self._untold:
            self._log.append(COVERAGE, self._untold[0].camera, *map(encode_claim, self._untold))
            self._untold.clear()

    def append(self, window: Window, before: Iterable[Claim], after: Iterable[Claim]) -> None:
        """Append a window between the claims before it and those about it, in one transaction.

        Where it is refused (StorageBlocked, TooLarge) only the claims `before` wait. A broker may
        have kept some of it: what is told of the window then is outweighed by who reads it.
        """
        self._hold(before)
        value = encode_window(window)
        self._log.append_messages(
            [
                *map(_message, self._untold),
                Message(topic=WINDOWS, key=window.camera, value=value),
                *map(_message, after),
            ]
        )
        self._untold.clear()

    def _hold(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._add(claim)

    def _add(self, claim: Claim) -> None:
        last = self._untold[-1] if self._untold else None
        if last is not None and last.start and _continues(last, claim):
            self._untold[-1] = replace(last, end=claim.end)
        else:
            self._untold.append(claim)


def _message(claim: Claim) -> Message:
    return Message(topic=COVERAGE, key=claim.camera, value=encode_claim(claim))


def _continues(last: Claim, claim: Claim) -> bool:
    """Return whether a claim says the same as the one before it, of the time after that."""
    said = (last.end, last.state, last.reason)
    return said == (claim.start, claim.state, claim.reason)
