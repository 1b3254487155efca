"""The bytes of requests and replies, and back; as strict as those of the other records."""

from datetime import timedelta
from typing import Any

from storage.records.framing import (
    VERSION,
    check_decodable,
    decode_strictly,
    encode_json,
    parse_uuid,
    parse_versioned,
)
from storage.records.json_fields import JsonFields, format_instant
from storage.records.records import QueryReply, QueryRequest, TimeSpan, YesNoAnswer
from storage.records.wire import MAX_ID, MAX_NAME

MAX_QUERY = 4096
MAX_TEXT = 4096
MAX_SPANS = 256
_MAX_LOOK_BACK_SECONDS = 1e9


def encode_request(request: QueryRequest) -> bytes:
    """Write a request."""
    fields: dict[str, Any] = {
        "version": VERSION,
        "id": str(request.id),
        "camera": request.camera,
        "ask": request.ask,
        "expires_at": format_instant(request.expires_at),
        "in_words": request.in_words,
    }
    if request.look_back is not None:
        fields["look_back"] = request.look_back.total_seconds()
    if request.zone is not None:
        fields["zone"] = request.zone
    return check_decodable(decode_request, encode_json(fields))


def decode_request(value: bytes) -> QueryRequest:
    """Read a request."""
    return decode_strictly(_parse_request, value)


def encode_reply(reply: QueryReply) -> bytes:
    """Write a reply; what does not go with its kind is left out."""
    return check_decodable(decode_reply, encode_json({"version": VERSION} | reply_fields(reply)))


def decode_reply(value: bytes) -> QueryReply:
    """Read a reply."""
    return decode_strictly(_parse_reply, value)


def reply_fields(reply: QueryReply) -> dict[str, Any]:
    """Return a reply as the JSON object that the topic and the CLI show."""
    fields: dict[str, Any] = {
        "request_id": str(reply.request_id),
        "camera": reply.camera,
        "model": reply.model,
        "remembers_from": reply.remembers_from and format_instant(reply.remembers_from),
        "until": reply.until and format_instant(reply.until),
        "forgotten": reply.forgotten,
    }
    if reply.refused is not None:
        fields["refused"] = reply.refused
    if reply.score is not None and reply.margin is not None:
        fields |= {"score": float(reply.score), "margin": float(reply.margin)}
        fields |= _answer_fields(reply)
    return fields


def _answer_fields(reply: QueryReply) -> dict[str, Any]:
    fields = {
        "answer": reply.answer,
        "since": reply.since and format_instant(reply.since),
        "since_or_before": reply.since_or_before,
        "dense": _spans_fields(reply.dense),
        "in_words": reply.text is not None,
    }
    if reply.text is not None:
        fields["text"] = reply.text
    if reply.seen:
        fields["seen"] = _spans_fields(reply.seen)
    return fields


def _spans_fields(spans: tuple[TimeSpan, ...]) -> list[dict[str, str]]:
    return [
        {"start": format_instant(span.start), "end": format_instant(span.end)} for span in spans
    ]


def _parse_request(value: bytes) -> QueryRequest:
    fields = parse_versioned(value)
    look_back = fields.maybe_number("look_back", 1e-3, _MAX_LOOK_BACK_SECONDS)
    request = QueryRequest(
        id=parse_uuid(fields.text("id", 36)),
        camera=fields.text("camera", MAX_NAME),
        ask=fields.text("ask", MAX_QUERY),
        look_back=None if look_back is None else timedelta(seconds=look_back),
        expires_at=fields.instant("expires_at"),
        in_words=fields.flag("in_words"),
        zone=fields.maybe_text("zone", MAX_NAME),
    )
    fields.require_empty()
    return request


def _parse_reply(value: bytes) -> QueryReply:
    fields = parse_versioned(value)
    score = fields.maybe_number("score", 0.0, 1.0)
    values: dict[str, Any] = {
        "request_id": parse_uuid(fields.text("request_id", 36)),
        "camera": fields.text("camera", MAX_NAME),
        "model": fields.text("model", MAX_ID),
        "remembers_from": fields.maybe_instant("remembers_from"),
        "until": fields.maybe_instant("until"),
        "forgotten": fields.flag("forgotten"),
    }
    if score is not None:
        values |= {"score": score} | _parse_answer(fields)
    elif not values["forgotten"]:
        values["refused"] = fields.text("refused", MAX_ID)
    fields.require_empty()
    reply = QueryReply(**values)
    _check_times(reply)
    return reply


def _parse_answer(fields: JsonFields) -> dict[str, Any]:
    return {
        "answer": fields.one_of("answer", YesNoAnswer),
        "margin": fields.number("margin", -1e9, 1e9),
        "since": fields.instant("since"),
        "since_or_before": fields.flag("since_or_before"),
        "dense": _parse_spans(fields, "dense"),
        "seen": _parse_spans(fields, "seen") if fields.has("seen") else (),
        "text": fields.text("text", MAX_TEXT) if fields.flag("in_words") else None,
    }


def _parse_spans(fields: JsonFields, name: str) -> tuple[TimeSpan, ...]:
    return tuple(_parse_span(JsonFields(item)) for item in fields.items(name, MAX_SPANS))


def _parse_span(fields: JsonFields) -> TimeSpan:
    span = TimeSpan(start=fields.instant("start"), end=fields.instant("end"))
    fields.require_empty()
    return span


def _check_times(reply: QueryReply) -> None:
    first, last = reply.remembers_from, reply.until
    if (first is None) != (last is None) or (reply.score is not None and first is None):
        raise ValueError("remembers_from and until: not both there")
    times = [at for at in (first, reply.since, last) if at is not None]
    if times != sorted(times) or any(span.start > span.end for span in (*reply.dense, *reply.seen)):
        raise ValueError("remembered, since and until, or a span: not in this order")
