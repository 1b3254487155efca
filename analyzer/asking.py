"""What a person asks once, between windows: answered from the memory, which stays as it is."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import partial
from itertools import takewhile
from math import isfinite

from analyzer.batching import attempt, empty_caches
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import REPLY_MAX_CONTEXTS, REPLY_MAX_TOKENS
from analyzer.kv.focus import select_focus
from analyzer.kv.memory import UNLIMITED, Memory, MemoryChunk
from analyzer.models.runner import ModelRunner, YesNoScores
from analyzer.models.spans import find_yes_spans
from analyzer.models.videoxl2 import prompt
from analyzer.questions.calibration import probability_of
from analyzer.watcher import Watcher
from analyzer.zones import zone_question
from storage.records.queries import QueryReply, QueryRequest
from storage.records.query_wire import MAX_SPANS, MAX_TEXT
from storage.records.records import TimeSpan, YesNoAnswer

MAX_QUESTION_LENGTH = 300
"""Characters of a question, as of a standing one."""
MAX_CAMERAS_NAMED = 5
"""Cameras that are named to one who asks about another."""
MAX_ZONES_NAMED = 3
"""Zones that are named to one who asks about another."""


def reply(watcher: Watcher, request: QueryRequest) -> QueryReply:
    """Reply from what is remembered of a camera; change nothing."""
    empty_reply = QueryReply(
        request_id=request.id, camera=request.camera, model=watcher.runner.name
    )
    memories = watcher._memories
    if request.camera not in memories:
        return replace(empty_reply, refused=_unknown_camera(request.camera, sorted(memories)))
    memory = memories[request.camera]
    as_prompted = _with_zone(watcher, request)
    if as_prompted is None:
        return replace(
            empty_reply, refused=_unknown_zone(watcher, request.camera, request.zone or "")
        )
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
    others = (
        f"windows came from {', '.join(known[:MAX_CAMERAS_NAMED])}"
        if known
        else "nor from any other"
    )
    more = f" and {len(known) - MAX_CAMERAS_NAMED} more" if len(known) > MAX_CAMERAS_NAMED else ""
    return f"nothing has come from a camera {camera} yet: {others}{more}"


def _with_zone(watcher: Watcher, request: QueryRequest) -> QueryRequest | None:
    """Return a request in the words that the model reads; None where its zone is not outlined."""
    if request.zone is None:
        return request
    zone = watcher.zones.get(request.camera, {}).get(request.zone)
    return None if zone is None else replace(request, ask=zone_question(zone, request.ask))


def _unknown_zone(watcher: Watcher, camera: str, zone: str) -> str:
    """Say why a zone cannot be asked about, and which can."""
    if not watcher.runner.model.config.is_trained_on_outlines:
        return "this model was not taught zones: ask without --zone, or choose another model"
    others = ", ".join(list(watcher.zones.get(camera, {}))[:MAX_ZONES_NAMED])
    reason = f"zone {zone} is not outlined on what is remembered of {camera}"
    instead = f", or ask about {others}" if others else ""
    return f"{reason}: give a standing question this zone{instead}"


def _refusal(runner: ModelRunner, memory: Memory, ask: str, prompt_text: str) -> str:
    """Return why a question cannot be asked, nothing where it can; both as a person and as read."""
    if not ask.strip():
        return "the question is empty: write one"
    if len(ask) > MAX_QUESTION_LENGTH:
        return f"the question has {len(ask)} characters: ask it in at most {MAX_QUESTION_LENGTH}"
    tokens, max_tokens = (
        len(runner.token_ids(prompt.question_text(prompt_text))),
        _max_tokens(memory),
    )
    if memory.chunks and tokens > max_tokens:
        return f"the question takes {tokens} tokens, more than {max_tokens}: ask it in fewer words"
    return ""


def _max_tokens(memory: Memory) -> int:
    """Return the tokens of the largest window as it was read, before any were pooled."""
    return max((_tokens(chunk.pooled) for chunk in memory.chunks), default=0)


def _tokens(pooled: AnyChunk) -> int:
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
    margins = [one.margins[0] for each in passes for one in _score(runner, request.ask, each)]
    margin = margins[0]
    if not isfinite(margin):
        return replace(empty_reply, refused="the model's answer is no number")
    unchanged = len(
        list(takewhile(lambda then: isfinite(then) and (then > 0) == (margin > 0), margins))
    )
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
    """Return the older chunks that the question is about: a first pass over pooled ones says."""
    if not memory.older_than_recent(look_back) or not memory.plan.focus:
        return frozenset()
    (scores,) = runner.score([([ask], memory.context(look_back))])
    return select_focus(memory, look_back, scores.queries_NQHD)[1]


def _score(
    runner: ModelRunner, ask: str, contexts: Sequence[Sequence[AnyChunk]]
) -> list[YesNoScores]:
    return runner.score([([ask], view) for view in contexts])


def _context_passes(
    memory: Memory, look_back: timedelta, focus: Collection[int], max_tokens: int
) -> Iterator[list[list[AnyChunk]]]:
    """Yield what is read in each pass: the memory as it was at the ends of the last windows.

    Newest first.
    """
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
    """Return when, in the last windows, the answer was yes."""
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
    """Return what `memory.view` holds in full."""
    recent = len(memory.chunks) - memory.plan.recent
    full = [
        TimeSpan(start=chunk.start, end=chunk.end)
        for nth, chunk in enumerate(memory.chunks)
        if nth >= memory.first_within(look_back) and (nth >= recent or nth in focus)
    ]
    return tuple(full[-MAX_SPANS:])


def _answer_text(runner: ModelRunner, ask: str, context: Sequence[AnyChunk]) -> str | None:
    """Return the answer in words, on one line."""
    line = " ".join(runner.generate(ask, context).split())
    return "".join(filter(str.isprintable, line))[:MAX_TEXT] or None
