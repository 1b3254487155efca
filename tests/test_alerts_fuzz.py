"""Whatever a receiver answers and a delivery holds: `send` raises nothing. See receivers_fuzz."""

import time

import pytest
from hypothesis import example, given
from receivers_fuzz import (
    BODIES,
    BUSY,
    CASES,
    WORST,
    BodyCase,
    Case,
    HeaderCase,
    WireCase,
    check,
    draws,
    raw_server,
)

SECONDS = 50
"""Of the long run, in which a round may take a few more."""


def test_send_raises_nothing_whatever_comes_back() -> None:
    with raw_server() as server:

        @draws(15)
        @given(CASES)
        def fuzzed(cases: tuple[Case, ...]) -> None:
            for case in cases:
                check(case, server)

        fuzzed()


@pytest.mark.parametrize("value", WORST)
@pytest.mark.parametrize("status", BUSY)
def test_worst_headers_end_nothing(status: int, value: str) -> None:
    answer = f"HTTP/1.1 {status} Busy\r\nRetry-After: {value}\r\n\r\n".encode()
    with raw_server() as server:
        check(HeaderCase(status, value), server)
        check(WireCase(answer), server)


@draws(60)
@given(BODIES)
@example(b'{"version": 2, "type": "test", "timestamp": "", "data": {"truncated": 1e999}}')
def test_delivery_that_holds_anything_is_sent_or_kept(body: bytes) -> None:
    with raw_server() as server:
        check(BodyCase(body), server)


@pytest.mark.slow
def test_send_raises_nothing_for_a_minute() -> None:
    end = time.monotonic() + SECONDS
    with raw_server() as server:

        @draws(100)
        @given(CASES)
        def fuzzed(cases: tuple[Case, ...]) -> None:
            for case in cases:
                check(case, server)

        while time.monotonic() < end:
            fuzzed()
