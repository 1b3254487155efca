"""Replies to the ad-hoc questions of people, from the memory, which stays unchanged."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import partial
from math import isfinite

from analyzer.batching import attempt, empty_caches
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import REPLY_MAX_CONTEXTS, REPLY_MAX_TOKENS
from analyzer.kv.focus import select_focus
from analyzer.kv.memory import UNLIMITED, Memory, MemoryChunk
from analyzer.models.messages import ScoreInput
from analyzer.models.runner import ModelRunner
from analyzer.models.spans import find_yes_spans
from analyzer.models.videoxl2 import prompt
from analyzer.questions.calibration import probability_of
from analyzer.watcher import Watcher
from analyzer.zones import zone_question
from storage.records.queries import QueryReply, QueryRequest
from storage.records.query_wire import MAX_SPANS, MAX_TEXT
from storage.records.records import TimeSpan, YesNoAnswer

MAX_QUESTION_LENGTH = 300
"""Characters, as of a standing question."""
MAX_CAMERAS_NAMED, MAX_ZONES_NAMED = 5, 3
"""Names of cameras and zones in the refusal of an unknown one."""


def reply(watcher: Watcher, request: QueryRequest) -> QueryReply:
    """Reply to a question about a camera; change no memory."""
    empty_reply = QueryReply(
        request_id=request.id, camera=request.camera, model=watcher.runner.name
    )
    memory = watcher.find_memory(request.camera)
    if memory is None:
        refused = _unknown_camera(request.camera, sorted(watcher.cameras))
        return replace(empty_reply, refused=refused)
    as_prompted = _with_zone(watcher, request)
    if as_prompted is None:
        refused = _unknown_zone(watcher, request.camera, request.zone or "")
        return replace(empty_reply, refused=refused)
    reason = _refusal(watcher.runner, memory, request.ask, as_prompted.ask)
    if reason:
        return replace(empty_reply, refused=reason)
    if not memory.chunks:
        return replace(empty_reply, forgotten=True)
    for max_tokens in (REPLY_MAX_TOKENS, 1):
        answer = partial(_answer, watcher.runner, memory, as_prompted, empty_reply, max_tokens)
        result = attempt(answer)
        if isinstance(result, QueryReply):
            return result
        empty_caches()
    return replace(empty_reply, refused=f"not now: {result}")


def _unknown_camera(camera: str, known: Sequence[str]) -> str:
    close = get_close_matches(camera, known, n=1)
    if close:
        return f"nothing has come from a camera {camera} yet, did you mean {close[0]}?"
    others = f"windows came from {', '.join(known[:MAX_CAMERAS_NAMED])}"
    more = f" and {len(known) - MAX_CAMERAS_NAMED} more" if len(known) > MAX_CAMERAS_NAMED else ""
    reason = f"{others}{more}" if known else "nor from any other"
    return f"nothing has come from a camera {camera} yet: {reason}"


def _with_zone(watcher: Watcher, request: QueryRequest) -> QueryRequest | None:
    """Return a request with the text that the model reads; None if its zone is not outlined."""
    if request.zone is None:
        return request
    zone = watcher.zones.get(request.camera, {}).get(request.zone)
    return None if zone is None else replace(request, ask=zone_question(zone, request.ask))


def _unknown_zone(watcher: Watcher, camera: str, zone: str) -> str:
    """Return why a question about a zone is refused, and which zones can be asked about."""
    if not watcher.runner.model.config.is_trained_on_outlines:
        return "this model was not taught zones: ask without --zone, or choose another model"
    others = ", ".join(list(watcher.zones.get(camera, {}))[:MAX_ZONES_NAMED])
    reason = f"zone {zone} is not outlined on the stills of {camera}"
    instead = f", or ask about {others}" if others else ""
    return f"{reason}: give a standing question this zone{instead}"


def _refusal(runner: ModelRunner, memory: Memory, ask: str, prompt_text: str) -> str:
    """Return why a question is refused; empty if it is not. The model reads `prompt_text`."""
    if not ask.strip():
        return "the question is empty: write one"
    if len(ask) > MAX_QUESTION_LENGTH:
        return f"the question has {len(ask)} characters: ask it in at most {MAX_QUESTION_LENGTH}"
    tokens = len(runner.token_ids(prompt.question_text(prompt_text)))
    max_tokens = max((_tokens(chunk.pooled) for chunk in memory.chunks), default=0)
    if memory.chunks and tokens > max_tokens:
        return f"the question takes {tokens} tokens, more than {max_tokens}: ask it in fewer words"
    return ""


def _tokens(pooled: AnyChunk) -> int:
    """Return the tokens of a window before pooling."""
    text = int(pooled.anchors_T.sum())
    return text + (len(pooled) - text) * pooled.token_size


def _answer(
    runner: ModelRunner,
    memory: Memory,
    request: QueryRequest,
    empty_reply: QueryReply,
    max_tokens: int,
) -> QueryReply:
    look_back = request.look_back or UNLIMITED
    focus = _focused_chunks(runner, memory, request.ask, look_back)
    passes = _context_passes(memory, look_back, focus, max_tokens)
    margins = [
        scores.margins[0]
        for contexts in passes
        for scores in runner.score([ScoreInput([request.ask], context) for context in contexts])
    ]
    margin = margins[0]
    if not isfinite(margin):
        return replace(empty_reply, refused="the model's answer is not a finite number")
    agrees = [isfinite(past) and (past > 0) == (margin > 0) for past in margins]
    unchanged = (*agrees, False).index(False)
    return replace(
        empty_reply,
        answer=YesNoAnswer.YES if margin > 0 else YesNoAnswer.NO,
        score=probability_of(margin),
        margin=margin,
        since=memory.chunks[-unchanged].start,
        since_or_before=unchanged == len(margins),
        text=_answer_text(runner, request.ask, memory.context(look_back, focus))
        if request.in_words
        else None,
        remembers_from=memory.chunks[0].start,
        until=memory.chunks[-1].end,
        forgotten=request.look_back is not None and request.look_back > memory.span,
        dense=_dense_spans(memory, look_back, focus),
        seen=_yes_spans(runner, memory, request.ask, margins[::-1]),
    )


def _focused_chunks(
    runner: ModelRunner, memory: Memory, ask: str, look_back: timedelta
) -> frozenset[int]:
    """Return the older chunks that the question attends to, by a first pass over pooled ones."""
    if not memory.older_than_recent(look_back) or not memory.plan.focus:
        return frozenset()
    (scores,) = runner.score([ScoreInput([ask], memory.context(look_back))])
    return select_focus(memory, look_back, scores.queries_NQHD)[1]


def _context_passes(
    memory: Memory, look_back: timedelta, focus: Collection[int], max_tokens: int
) -> Iterator[list[list[AnyChunk]]]:
    """Yield the contexts of each pass: the memory at the ends of the last windows, newest first."""
    contexts, tokens = list[list[AnyChunk]](), 0
    for end in range(len(memory.chunks), max(0, len(memory.chunks) - REPLY_MAX_CONTEXTS), -1):
        past_memory = Memory(memory.camera, memory.plan)
        past_memory.chunks = memory.chunks[:end]
        context = past_memory.context(look_back, focus)
        size = sum(map(len, context))
        if contexts and tokens + size > max_tokens:
            yield contexts
            contexts, tokens = [], 0
        contexts.append(context)
        tokens += size
    yield contexts


def _yes_spans(
    runner: ModelRunner, memory: Memory, ask: str, margins: Sequence[float]
) -> tuple[TimeSpan, ...]:
    """Return the spans of the last windows in which the answer was yes."""
    chunks = memory.chunks[-len(margins) :]
    return tuple(
        TimeSpan(
            start=chunks[began.window].times[began.group],
            end=_group_ends(chunks[ended.window])[ended.group],
        )
        for began, ended in find_yes_spans(
            runner, ask, margins, lambda nth: memory.densest_form(chunks[nth])
        )
    )


def _group_ends(chunk: MemoryChunk) -> tuple[datetime, ...]:
    return (*chunk.times[1:], chunk.end)


def _dense_spans(
    memory: Memory, look_back: timedelta, focus: Collection[int]
) -> tuple[TimeSpan, ...]:
    """Return the spans that `memory.context` contains in full."""
    recent = len(memory.chunks) - memory.plan.recent
    full = [
        TimeSpan(start=chunk.start, end=chunk.end)
        for nth, chunk in enumerate(memory.chunks)
        if nth >= memory.first_within(look_back) and (nth >= recent or nth in focus)
    ]
    return tuple(full[-MAX_SPANS:])


def _answer_text(runner: ModelRunner, ask: str, context: Sequence[AnyChunk]) -> str | None:
    """Return the answer in words, as one line of printable characters."""
    line = " ".join(runner.generate(ask, context).split())
    return "".join(filter(str.isprintable, line))[:MAX_TEXT] or None
