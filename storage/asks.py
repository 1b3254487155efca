"""The bytes of requests and replies, and back; as strict as those of the other records."""

from datetime import timedelta
from typing import Any

from storage.fields import Fields, write_instant
from storage.frames import VERSION, as_json, exactly, readable, uuid_of, versioned
from storage.records import Answer, Reply, Request, Span
from storage.wire import MAX_ID, MAX_NAME

MAX_ASK = 4096
MAX_TEXT = 4096
MAX_SPANS = 256
_LONGEST = 1e9


def encode_request(request: Request) -> bytes:
    """Write a request."""
    fields: dict[str, Any] = {
        "version": VERSION,
        "id": str(request.id),
        "camera": request.camera,
        "ask": request.ask,
        "expires_at": write_instant(request.expires_at),
        "in_words": request.in_words,
    }
    if request.look_back is not None:
        fields["look_back"] = request.look_back.total_seconds()
    if request.zone is not None:
        fields["zone"] = request.zone
    return readable(decode_request, as_json(fields))


def decode_request(value: bytes) -> Request:
    """Read a request."""
    return exactly(_request, value)


def encode_reply(reply: Reply) -> bytes:
    """Write a reply; what does not go with its kind is left out."""
    return readable(decode_reply, as_json({"version": VERSION} | reply_fields(reply)))


def decode_reply(value: bytes) -> Reply:
    """Read a reply."""
    return exactly(_reply, value)


def reply_fields(reply: Reply) -> dict[str, Any]:
    """Return a reply as the JSON object that the topic and the CLI show."""
    fields: dict[str, Any] = {
        "request_id": str(reply.request_id),
        "camera": reply.camera,
        "model": reply.model,
        "remembers_from": reply.remembers_from and write_instant(reply.remembers_from),
        "until": reply.until and write_instant(reply.until),
        "forgotten": reply.forgotten,
    }
    if reply.refused is not None:
        fields["refused"] = reply.refused
    if reply.score is not None and reply.margin is not None:
        fields |= {"score": float(reply.score), "margin": float(reply.margin)}
        fields |= _answer_fields(reply)
    return fields


def _answer_fields(reply: Reply) -> dict[str, Any]:
    fields = {
        "answer": reply.answer,
        "since": reply.since and write_instant(reply.since),
        "since_or_before": reply.since_or_before,
        "dense": _spans_fields(reply.dense),
        "in_words": reply.text is not None,
    }
    if reply.text is not None:
        fields["text"] = reply.text
    if reply.seen:
        fields["seen"] = _spans_fields(reply.seen)
    return fields


def _spans_fields(spans: tuple[Span, ...]) -> list[dict[str, str]]:
    return [{"start": write_instant(span.start), "end": write_instant(span.end)} for span in spans]


def _request(value: bytes) -> Request:
    fields = versioned(value)
    look_back = fields.maybe_number("look_back", 1e-3, _LONGEST)
    request = Request(
        id=uuid_of(fields.text("id", 36)),
        camera=fields.text("camera", MAX_NAME),
        ask=fields.text("ask", MAX_ASK),
        look_back=None if look_back is None else timedelta(seconds=look_back),
        expires_at=fields.instant("expires_at"),
        in_words=fields.flag("in_words"),
        zone=fields.maybe_text("zone", MAX_NAME),
    )
    fields.end()
    return request


def _reply(value: bytes) -> Reply:
    fields = versioned(value)
    score = fields.maybe_number("score", 0.0, 1.0)
    told: dict[str, Any] = {
        "request_id": uuid_of(fields.text("request_id", 36)),
        "camera": fields.text("camera", MAX_NAME),
        "model": fields.text("model", MAX_ID),
        "remembers_from": fields.maybe_instant("remembers_from"),
        "until": fields.maybe_instant("until"),
        "forgotten": fields.flag("forgotten"),
    }
    if score is not None:
        told |= {"score": score} | _answer(fields)
    elif not told["forgotten"]:
        told["refused"] = fields.text("refused", MAX_ID)
    fields.end()
    reply = Reply(**told)
    _check_times(reply)
    return reply


def _answer(fields: Fields) -> dict[str, Any]:
    return {
        "answer": fields.one_of("answer", Answer),
        "margin": fields.number("margin", -1e9, 1e9),
        "since": fields.instant("since"),
        "since_or_before": fields.flag("since_or_before"),
        "dense": _spans(fields, "dense"),
        "seen": _spans(fields, "seen") if fields.has("seen") else (),
        "text": fields.text("text", MAX_TEXT) if fields.flag("in_words") else None,
    }


def _spans(fields: Fields, name: str) -> tuple[Span, ...]:
    return tuple(_span(Fields(item)) for item in fields.items(name, MAX_SPANS))


def _span(fields: Fields) -> Span:
    span = Span(start=fields.instant("start"), end=fields.instant("end"))
    fields.end()
    return span


def _check_times(reply: Reply) -> None:
    first, last = reply.remembers_from, reply.until
    if (first is None) != (last is None) or (reply.score is not None and first is None):
        raise ValueError("remembers_from and until: not both there")
    times = [at for at in (first, reply.since, last) if at is not None]
    if times != sorted(times) or any(span.start > span.end for span in (*reply.dense, *reply.seen)):
        raise ValueError("remembered, since and until, or a span: not in this order")
