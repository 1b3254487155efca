"""The outcomes of a delivery, as values: a receiver's failure raises no exception."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from alerts.notify.egress import AddressRefused
from storage.text import one_line

DEFAULT_RETRY_AFTER = timedelta(seconds=30)
"""The pause of a receiver that asks for one without its length."""
MAX_RETRY_AFTER = timedelta(hours=24)
"""The longest pause that a receiver may ask for."""
MAX_REASON_CHARS = 300
"""The longest reason from outside."""
_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
"""The three forms of an HTTP date (RFC 9110, 5.6.7); all are in UTC."""
_BUSY_STATUSES = {429, 502, 503, 504}
_GONE_STATUS = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The receiver accepted it; `status` of HTTP, if it speaks HTTP."""

    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The delivery failed; the receiver asked for a pause of `after`.

    `hint` says what the operator can do.
    """

    reason: str
    after: timedelta = timedelta()
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The receiver wants no more deliveries (410)."""

    reason: str
    hint: str = ""


DeliveryOutcome = Delivered | Retry | Refused


def outcome_from_status(status: int, retry_after: str, now: datetime) -> DeliveryOutcome:
    """Return the outcome of an HTTP status, as in Standard Webhooks."""
    if 200 <= status < 300:
        return Delivered(status=status)
    if status == _GONE_STATUS:
        return Refused(
            reason="status 410: it wants nothing more",
            hint="once it does: longwatch receivers enable NAME",
        )
    requested = _parse_retry_after(retry_after, now) if status in _BUSY_STATUSES else timedelta()
    return Retry(reason=f"status {status}", after=requested, hint=_hint(status))


def address_refused_retry(error: AddressRefused) -> Retry:
    """Return that a host may not be connected to, with a hint."""
    return Retry(reason=str(error), hint="if it is yours, name its net or host under `allow`")


def unreadable_retry(error: Exception) -> Retry:
    """Return that this version cannot read a stored delivery; a later one may."""
    return Retry(reason=printable(f"the delivery cannot be read: {error}"))


def local_failure_retry(error: OSError) -> Retry:
    """Return that this machine could not try: no file descriptor, process or memory."""
    cause = error.strerror or type(error).__name__
    return Retry(reason=f"this machine cannot send: {cause}", hint="see its limits, and its log")


def _hint(status: int) -> str:
    if 300 <= status < 400:
        return "redirects are not followed: write the URL that it redirects to"
    if status in (401, 403):
        return "compare the secret here with the receiver's"
    if status in (404, 405):
        return "compare the URL here with the receiver's"
    return "" if status in _BUSY_STATUSES else "the receiver's own log says why"


def printable(text: str) -> str:
    """Return text from outside as one short printable line."""
    return one_line(text, MAX_REASON_CHARS, ellipsis="")


def _parse_retry_after(value: str, now: datetime) -> timedelta:
    """Parse seconds or an HTTP date (RFC 9110, 10.2.3), within a day; never raises."""
    value = value.strip()
    if value.isdecimal() and value.isascii():
        seconds = int(value.lstrip("0")[:9] or "0")
        return min(timedelta(seconds=seconds), MAX_RETRY_AFTER)
    at = _parse_http_date(value)
    return DEFAULT_RETRY_AFTER if at is None else min(max(at - now, timedelta()), MAX_RETRY_AFTER)


def _parse_http_date(value: str) -> datetime | None:
    """Parse an HTTP date; libraries that accept more forms raise more errors."""
    for form in _DATES:
        try:
            return datetime.strptime(value, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
