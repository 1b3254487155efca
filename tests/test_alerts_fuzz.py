"""Whatever a receiver answers and a delivery holds: `send` raises nothing. See receivers_fuzz."""

import time

import pytest
from hypothesis import example, given

from kit.alerts.receiver_fuzz import (
    BODIES,
    BUSY,
    CASES,
    WORST_RETRY_AFTERS,
    BodyCase,
    HeaderCase,
    ReceiverCase,
    WireCase,
    check,
    draw_settings,
    run_raw_server,
)

SECONDS = 50
"""Of the long run, in which a round may take a few more."""


def test_send_raises_nothing_whatever_comes_back() -> None:
    with run_raw_server() as server:

        @draw_settings(15)
        @given(CASES)
        def fuzzed(cases: tuple[ReceiverCase, ...]) -> None:
            for case in cases:
                check(case, server)

        fuzzed()


@pytest.mark.parametrize("value", WORST_RETRY_AFTERS)
@pytest.mark.parametrize("status", BUSY)
def test_worst_headers_end_nothing(status: int, value: str) -> None:
    answer = f"HTTP/1.1 {status} Busy\r\nRetry-After: {value}\r\n\r\n".encode()
    with run_raw_server() as server:
        check(HeaderCase(status, value), server)
        check(WireCase(answer), server)


@draw_settings(60)
@given(BODIES)
@example(b'{"version": 2, "type": "test", "timestamp": "", "data": {"truncated": 1e999}}')
def test_delivery_that_holds_anything_is_sent_or_kept(body: bytes) -> None:
    with run_raw_server() as server:
        check(BodyCase(body), server)


@pytest.mark.slow
def test_send_raises_nothing_for_a_minute() -> None:
    end = time.monotonic() + SECONDS
    with run_raw_server() as server:

        @draw_settings(100)
        @given(CASES)
        def fuzzed(cases: tuple[ReceiverCase, ...]) -> None:
            for case in cases:
                check(case, server)

        while time.monotonic() < end:
            fuzzed()
