"""The bytes of requests and replies, and back; as strict as those of the other records."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

from storage.records.framing import (
    decode_record,
    decode_strictly,
    encode_record,
    encode_versioned,
    from_fields,
    parse_versioned,
    to_fields,
)
from storage.records.json_types import (
    Flag,
    Instant,
    Uuid,
    items,
    record_adapter,
    text,
    within,
)
from storage.records.queries import QueryReply, QueryRequest
from storage.records.records import YesNoAnswer
from storage.records.wire import Id, Margin, Name, Score, Span

MAX_QUERY = 4096
MAX_TEXT = 4096
MAX_SPANS = 256
_MAX_LOOK_BACK_SECONDS = 1e9


def _to_timedelta(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


_LookBack = Annotated[
    float,
    within(1e-3, _MAX_LOOK_BACK_SECONDS),
    AfterValidator(_to_timedelta),
    PlainSerializer(timedelta.total_seconds),
]
_REQUEST = record_adapter(
    QueryRequest,
    required=("in_words",),
    id=Uuid,
    camera=Name,
    ask=Annotated[str, text(MAX_QUERY)],
    expires_at=Instant,
    in_words=Flag,
    look_back=_LookBack,
    zone=Name,
)


def encode_request(request: QueryRequest) -> bytes:
    """Write a request."""
    return encode_record(_REQUEST, request)


def decode_request(value: bytes) -> QueryRequest:
    """Read a request."""
    return decode_record(_REQUEST, value)


_Spans = Annotated[tuple[Span, ...], items(MAX_SPANS)]
_HEAD = ("request_id", "camera", "model", "remembers_from", "until", "forgotten")
_ANSWER = ("score", "margin", "answer", "since", "since_or_before", "dense", "in_words")
_REPLY = record_adapter(
    QueryReply,
    required=_HEAD,
    request_id=Uuid,
    camera=Name,
    model=Id,
    remembers_from=Instant | None,
    until=Instant | None,
    forgotten=Flag,
    refused=Id,
    score=Score,
    margin=Margin,
    answer=YesNoAnswer,
    since=Instant,
    since_or_before=Flag,
    dense=_Spans,
    text=Annotated[str, text(MAX_TEXT)],
    seen=_Spans,
)


def encode_reply(reply: QueryReply) -> bytes:
    """Write a reply; leave out what does not go with its kind."""
    fields = reply_fields(reply)
    _to_reply(fields)
    return encode_versioned(fields)


def decode_reply(value: bytes) -> QueryReply:
    """Read a reply."""
    return decode_strictly(_parse_reply, value)


def _parse_reply(value: bytes) -> QueryReply:
    return _to_reply(parse_versioned(value)[0])


def reply_fields(reply: QueryReply) -> dict[str, Any]:
    """Return a reply as the JSON object that the topic and the CLI show."""
    fields = to_fields(_REPLY, reply)
    names: tuple[str, ...] = (*_HEAD, "refused")
    if reply.score is not None and reply.margin is not None:
        fields |= {"since_or_before": reply.since_or_before, "in_words": reply.text is not None}
        names += (*_ANSWER, "text", "seen")
    return {name: fields[name] for name in names if name in fields}


def _to_reply(fields: dict[str, Any]) -> QueryReply:
    _check_kind(fields)
    reply = from_fields(_REPLY, {key: fields[key] for key in fields if key != "in_words"})
    _check_times(reply)
    return reply


def _check_kind(fields: dict[str, Any]) -> None:
    """Raise ValueError unless it has the fields of an answer, of a refusal, or of neither."""
    needed, optional = set(_HEAD), set[str]()
    if "score" in fields:
        needed |= {*_ANSWER, "text"} if fields.get("in_words") is True else set(_ANSWER)
        optional = {"seen"}
    elif fields.get("forgotten") is not True:
        needed.add("refused")
    for name in (*_HEAD, *_ANSWER, "text", "refused"):
        if name in needed and name not in fields:
            raise ValueError(f"{name}: missing")
    if unknown := fields.keys() - needed - optional:
        raise ValueError(f"{len(unknown)} unknown fields")
    if "in_words" in fields and not isinstance(fields["in_words"], bool):
        raise ValueError("in_words: not true or false")


def _check_times(reply: QueryReply) -> None:
    first, last = reply.remembers_from, reply.until
    if (first is None) != (last is None) or (reply.score is not None and first is None):
        raise ValueError("remembers_from and until: not both there")
    times = [at for at in (first, reply.since, last) if at is not None]
    if times != sorted(times):
        raise ValueError("remembers_from, since and until: not in this order")
