"""What a person asks once, between windows: answered from the memory, which stays as it is."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import partial
from itertools import takewhile
from math import isfinite

from analyzer.batches import attempt, empty_caches
from analyzer.calibration import score
from analyzer.focus import focus_of
from analyzer.memory import FOREVER, Chunk, Memory
from analyzer.plan import STEPS, TOGETHER
from analyzer.spans import seen_in
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.speaker import Said, Speaker
from analyzer.watcher import Watcher
from analyzer.zones import ask_about
from storage.asks import MAX_SPANS, MAX_TEXT
from storage.records import Answer, Reply, Request, Span

LONGEST = 300
"""Characters of a question, as of a standing one."""
NAMED = 5
"""Cameras that are named to one who asks about another."""
ZONES_NAMED = 3
"""Zones that are named to one who asks about another."""


def reply(watcher: Watcher, request: Request) -> Reply:
    """Reply from what is remembered of a camera; change nothing."""
    bare = Reply(request_id=request.id, camera=request.camera, model=watcher.speaker.name)
    memories = watcher._memories
    if request.camera not in memories:
        return replace(bare, refused=_unknown(request.camera, sorted(memories)))
    memory = memories[request.camera]
    asked = _as_read(watcher, request)
    if asked is None:
        return replace(bare, refused=_undrawn(watcher, request.camera, request.zone or ""))
    reason = _unfit(watcher.speaker, memory, request.ask, asked.ask)
    if reason:
        return replace(bare, refused=reason)
    if not memory.chunks:
        return replace(bare, forgotten=True)
    for together in (TOGETHER, 1):
        answer = partial(_answered, watcher.speaker, memory, asked, bare, together)
        told = attempt(answer)
        if isinstance(told, Reply):
            return told
        empty_caches()
    return replace(bare, refused=f"not now: {told}")


def _unknown(camera: str, known: Sequence[str]) -> str:
    close = get_close_matches(camera, known, n=1)
    if close:
        return f"nothing has come from a camera {camera} yet, did you mean {close[0]}?"
    others = f"windows came from {', '.join(known[:NAMED])}" if known else "nor from any other"
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return f"nothing has come from a camera {camera} yet: {others}{more}"


def _as_read(watcher: Watcher, request: Request) -> Request | None:
    """Return a request in the words that the model reads; None where its zone is not outlined."""
    if request.zone is None:
        return request
    zone = watcher.zones.get(request.camera, {}).get(request.zone)
    return None if zone is None else replace(request, ask=ask_about(zone, request.ask))


def _undrawn(watcher: Watcher, camera: str, zone: str) -> str:
    """Say why a zone cannot be asked about, and which can."""
    if not watcher.speaker.model.config.knows_outlines:
        return "this model was not taught zones: ask without --zone, or choose another model"
    others = ", ".join(list(watcher.zones.get(camera, {}))[:ZONES_NAMED])
    told = f"zone {zone} is not outlined on what is remembered of {camera}"
    instead = f", or ask about {others}" if others else ""
    return f"{told}: give a standing question this zone{instead}"


def _unfit(speaker: Speaker, memory: Memory, ask: str, as_read: str) -> str:
    """Return why a question cannot be asked, nothing where it can; both as a person and as read."""
    if not ask.strip():
        return "the question is empty: write one"
    if len(ask) > LONGEST:
        return f"the question has {len(ask)} characters: ask it in at most {LONGEST}"
    tokens, room = len(speaker.ids(prompt.question(as_read))), _room(memory)
    if memory.chunks and tokens > room:
        return f"the question takes {tokens} tokens, more than {room}: ask it in fewer words"
    return ""


def _room(memory: Memory) -> int:
    """Return the tokens of the largest window as it was read, before any were pooled."""
    return max((_tokens(chunk.pooled) for chunk in memory.chunks), default=0)


def _tokens(pooled: Form) -> int:
    text = int(pooled.anchors_T.sum())
    return text + (len(pooled) - text) * pooled.stands_for


def _answered(
    speaker: Speaker, memory: Memory, request: Request, bare: Reply, together: int
) -> Reply:
    reach = request.look_back or FOREVER
    focus = _focus(speaker, memory, request.ask, reach)
    views = _passes(memory, reach, focus, together)
    margins = [one.margins[0] for each in views for one in _ask(speaker, request.ask, each)]
    margin = margins[0]
    if not isfinite(margin):
        return replace(bare, refused="the model's answer is no number")
    same = len(list(takewhile(lambda then: isfinite(then) and (then > 0) == (margin > 0), margins)))
    return replace(
        bare,
        answer=Answer.YES if margin > 0 else Answer.NO,
        score=score(margin),
        margin=margin,
        since=memory.chunks[-same].start,
        since_or_before=same == len(margins),
        text=_words(speaker, request.ask, memory.view(reach, focus)) if request.in_words else None,
        remembers_from=memory.chunks[0].start,
        until=memory.chunks[-1].end,
        forgotten=request.look_back is not None and request.look_back > memory.span,
        dense=_dense(memory, reach, focus),
        seen=_seen(speaker, memory, request.ask, margins[::-1]),
    )


def _focus(speaker: Speaker, memory: Memory, ask: str, reach: timedelta) -> frozenset[int]:
    """Return the older chunks that the question is about: a first pass over pooled ones says."""
    if not memory.older(reach) or not memory.plan.focus:
        return frozenset()
    (said,) = speaker.ask([([ask], memory.view(reach))])
    return focus_of(memory, reach, said.queries_NQHD)[1]


def _ask(speaker: Speaker, ask: str, views: Sequence[Sequence[Form]]) -> list[Said]:
    return speaker.ask([([ask], view) for view in views])


def _passes(
    memory: Memory, reach: timedelta, focus: Collection[int], together: int
) -> Iterator[list[list[Form]]]:
    """Yield what is read in each pass: the memory as it was at the ends of the last windows.

    Newest first.
    """
    views, tokens = list[list[Form]](), 0
    for end in range(len(memory.chunks), max(0, len(memory.chunks) - STEPS), -1):
        then = Memory(memory.camera, memory.plan)
        then.chunks = memory.chunks[:end]
        view = then.view(reach, focus)
        size = sum(map(len, view))
        if views and tokens + size > together:
            yield views
            views, tokens = [], 0
        views.append(view)
        tokens += size
    yield views


def _seen(speaker: Speaker, memory: Memory, ask: str, margins: Sequence[float]) -> tuple[Span, ...]:
    """Return when, in the last windows, the answer was yes."""
    chunks = memory.chunks[-len(margins) :]
    return tuple(
        Span(
            start=chunks[began.window].times[began.group],
            end=_ends(chunks[ended.window])[ended.group],
        )
        for began, ended in seen_in(speaker, ask, margins, lambda nth: memory.full(chunks[nth]))
    )


def _ends(chunk: Chunk) -> tuple[datetime, ...]:
    return (*chunk.times[1:], chunk.end)


def _dense(memory: Memory, reach: timedelta, focus: Collection[int]) -> tuple[Span, ...]:
    """Return what `memory.view` holds in full."""
    recent = len(memory.chunks) - memory.plan.recent
    full = [
        Span(start=chunk.start, end=chunk.end)
        for nth, chunk in enumerate(memory.chunks)
        if nth >= memory.first(reach) and (nth >= recent or nth in focus)
    ]
    return tuple(full[-MAX_SPANS:])


def _words(speaker: Speaker, ask: str, behind: Sequence[Form]) -> str | None:
    """Return the answer in words, on one line."""
    line = " ".join(speaker.say(ask, behind).split())
    return "".join(filter(str.isprintable, line))[:MAX_TEXT] or None
