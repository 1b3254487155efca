"""Append windows and claims to the log, in order."""

from collections.abc import Iterable
from dataclasses import replace

from storage.log.log import Log, LogMessage
from storage.records.claims import Claim, encode_claim
from storage.records.records import Window
from storage.records.topics import COVERAGE, WINDOWS
from storage.records.wire import encode_window


class ClaimSender:
    """Append windows and claims to the log; claims that the log refuses come first later."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._unsent: list[Claim] = []

    def send(self, claims: Iterable[Claim]) -> None:
        """Append these claims and all unsent ones; raise StorageBlocked and keep them."""
        self._queue_all(claims)
        if self._unsent:
            self._log.append(COVERAGE, self._unsent[0].camera, *map(encode_claim, self._unsent))
            self._unsent.clear()

    def append(self, window: Window, before: Iterable[Claim], after: Iterable[Claim]) -> None:
        """Append a window between the claims before it and those about it, in one transaction.

        On StorageBlocked or TooLarge only the claims `before` stay queued. A broker may have stored
        the window anyway; readers then ignore what is claimed about it.
        """
        self._queue_all(before)
        value = encode_window(window)
        self._log.append_messages(
            [
                *map(_message, self._unsent),
                LogMessage(topic=WINDOWS, key=window.camera, value=value),
                *map(_message, after),
            ]
        )
        self._unsent.clear()

    def _queue_all(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._queue(claim)

    def _queue(self, claim: Claim) -> None:
        last = self._unsent[-1] if self._unsent else None
        if last is not None and last.start and _is_continuation(last, claim):
            self._unsent[-1] = replace(last, end=claim.end)
        else:
            self._unsent.append(claim)


def _message(claim: Claim) -> LogMessage:
    return LogMessage(topic=COVERAGE, key=claim.camera, value=encode_claim(claim))


def _is_continuation(last: Claim, claim: Claim) -> bool:
    """Return whether a claim continues the last one with the same state and reason."""
    expected = (last.end, last.state, last.reason)
    return expected == (claim.start, claim.state, claim.reason)
