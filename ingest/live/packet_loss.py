"""Detect lost RTP packets from FFmpeg's log, its only report of them."""

import logging
from typing import Self

import av.logging

_MISSED_PACKETS = "RTP: missed"


class PacketLossMonitor:
    """Read what FFmpeg logs in this thread; use it in a `with` block.

    It is never shown: it may contain a url with its password.
    """

    def __init__(self) -> None:
        logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.WARNING)
        self._capture = av.logging.Capture()
        self._lines: list[tuple[int, str, str]] = []

    def __enter__(self) -> Self:
        self._lines = self._capture.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.__exit__(None, None, None)

    def take_loss(self) -> bool:
        """Clear the log; return whether packets were lost since the last call."""
        missed = any(_MISSED_PACKETS in text for _, _, text in self._lines)
        self._lines.clear()
        return missed
