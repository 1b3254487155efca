"""Whether what a worker told of a simulated camera (`ingest_world`) is true."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TypeVar

from ingest.timing.camera_clock import MAX_CLOCK_STEP
from ingest.timing.stream_time import TOLERANCE
from kit.simulation.camera_plan import EPOCH, FaultPeriod, PausedProcess, SlowMachine
from kit.simulation.camera_simulation import (
    AppendedRecord,
    CameraSimulation,
    FollowedStep,
    ShownFrame,
    number_of,
)
from storage.records.claims import (
    Claim,
    covered_span,
    merge_intervals,
    resolve_claim,
    uncovered_spans,
)
from storage.records.records import ClockSource, CoverageInterval, CoverageState, TimeSpan, Window

PeriodT = TypeVar("PeriodT", bound=FaultPeriod)
_TICK_ALLOWANCE = 2.0
"""Seconds that a tick and its claims may take beyond two windows."""
_HOLE = 1.0
_BACKLOG = 2.0
"""Seconds for which a new connection may give what a relay kept."""
Spans = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StillTime:
    """The time of a still as it was told, the truth, and what is allowed, in true seconds."""

    reported: float
    true_time: float
    is_exact: bool
    earliest: float
    latest: float


@lru_cache(maxsize=65536)
def _number(jpeg: bytes) -> int:
    return number_of(jpeg)


class SimulationJudge:
    """What a finished world told, beside the truth; each check returns what is wrong, in words."""

    def __init__(self, simulation: CameraSimulation) -> None:
        self.simulation = simulation
        self.plan = simulation.plan
        self.step = 1 / self.plan.camera.fps
        self.slack = self.step + 2 * self.plan.interval + 0.6

    def faults(self) -> list[str]:
        return [
            *self.silence(),
            *self.holes(),
            *self.blame(),
            *self.blindness(),
            *self.wrong_times(),
            *self.wrong_clock(),
            *self.uncovered(),
        ]

    # What was told, on true time.

    @cached_property
    def windows(self) -> list[tuple[AppendedRecord, Window]]:
        return [
            (told, told.record)
            for told in self.simulation.appended
            if isinstance(told.record, Window)
        ]

    @cached_property
    def claims(self) -> list[tuple[AppendedRecord, Claim]]:
        return [
            (told, told.record)
            for told in self.simulation.appended
            if isinstance(told.record, Claim)
        ]

    @cached_property
    def eras(self) -> list[list[tuple[AppendedRecord, Claim]]]:
        """Return the claims, apart by each step back of the host's clock."""
        eras: list[list[tuple[AppendedRecord, Claim]]] = [[] for _ in range(1 + len(self._back))]
        for told, claim in self.claims:
            eras[self._era_of(told)].append((told, claim))
        return eras

    @property
    def _back(self) -> list[FollowedStep]:
        return [step for step in self.simulation.clock.followed if step.by < 0]

    def _era_of(self, record: AppendedRecord) -> int:
        return sum(step.by < 0 for step in self.simulation.clock.followed[: record.era])

    def _true_time(self, record: AppendedRecord, instant: datetime) -> float:
        """Return the true time of an instant by the host's clock, as it was when that was told."""
        host, offset = _seconds(instant), record.host
        for step in reversed(self.simulation.clock.followed[: record.era]):
            if step.by < 0 or host >= step.before + step.by:
                break
            if host > step.before:
                return step.at
            offset -= step.by
        return host - offset

    @cached_property
    def rows(self) -> list[tuple[AppendedRecord, CoverageInterval]]:
        """Return the ledger of each era as it is folded, and the last that was told of it."""
        return [
            (era[-1][0], row)
            for era in self.eras
            for row in merge_intervals(row for _, claim in era for row in resolve_claim(claim, ()))
        ]

    def spans(self, state: CoverageState) -> list[tuple[float, float, str]]:
        """Return the true time that is in a state, and the reasons."""
        return [
            (self._true_time(told, row.start), self._true_time(told, row.end), row.reason)
            for told, row in self.rows
            if row.state is state
        ]

    # The checks.

    def silence(self) -> Iterator[str]:
        """Nothing waits for longer than two windows."""
        most = 2 * self.plan.window + _TICK_ALLOWANCE
        late = [(at, by) for at, by in self.simulation.ledger_lags if by > most]
        if late:
            at, by = max(late, key=lambda each: each[1])
            yield f"silent: at {at:.1f} the ledger is {by:.1f} s behind, {most:.1f} at most"

    def holes(self) -> Iterator[str]:
        """The claims cover all of the time, in each era of the clock."""
        began = EPOCH
        for nth in range(len(self.eras)):
            rows = [row for told, row in self.rows if self._era_of(told) == nth]
            last = nth == len(self.eras) - 1
            end = max((_seconds(row.end) for row in rows), default=began)
            until = end if last else self._back[nth].before
            span = TimeSpan(start=_at(began), end=_at(until))
            missing = uncovered_spans(rows, span)
            total = sum((each.end - each.start).total_seconds() for each in missing)
            if total > 0.1:
                spans = [_format_span(each) for each in missing]
                yield f"holes in era {nth}: {total:.3f} s, {spans}"
            if not last:
                began = self._back[nth].before + self._back[nth].by

    def blame(self) -> Iterator[str]:
        """No state is claimed where another party was the cause."""
        allowed = self._allowed()
        for state, spans in allowed.items():
            for start, end, reason in self.spans(state):
                for part in _uncovered_parts((start, end), spans):
                    yield f"{state} {part[0]:.2f} to {part[1]:.2f} is false ({reason!r})"
        for told, claim in self.claims:
            if claim.state not in {*allowed, CoverageState.WAITING}:
                yield f"{claim.state} was claimed at {told.at:.1f}"

    def blindness(self) -> Iterator[str]:
        """Where pictures come without a break, all of it is in windows, but for a short pause."""
        seen = [span[:2] for span in self.spans(CoverageState.WAITING)] + self._silent()
        least = 3 * self.plan.window + 10
        for run in _runs(self.simulation.shown_frames, 3.0):
            came = [told.at for told, _ in self.windows]
            if run[-1].read - run[0].read > least and not any(
                run[0].read <= at <= run[-1].read for at in came
            ):
                yield f"no window from {run[0].read:.2f} to {run[-1].read:.2f}"
        for start, end in self.calm():
            for part in _uncovered_parts((start, end), seen):
                yield f"blind from {part[0]:.2f} to {part[1]:.2f}, calm {start:.2f} to {end:.2f}"

    def wrong_times(self) -> Iterator[str]:
        """An exact stamp gives the time within a step, any other as exactly as it arrived."""
        for each in self.stills():
            if not each.earliest - 0.05 <= each.reported <= each.latest + 0.05:
                kind = "exact" if each.is_exact else "inexact"
                yield (
                    f"still of {each.true_time:.2f} at {each.reported:.2f}, {kind} stamp, "
                    f"may be {each.earliest:.2f} to {each.latest:.2f}"
                )

    def uncovered(self) -> Iterator[str]:
        """Each window accounts for the time of its stills, by the host's clock."""
        last: Window | None = None
        for told, window in self.windows:
            offset = window.clock.offset if window.clock.source is ClockSource.CAMERA_NTP else 0.0
            moved = MAX_CLOCK_STEP if last is not None and _follows_at_once(last, window) else 0.0
            last = window
            first, final = _seconds(window.start) - offset, _seconds(window.end) - offset
            covers = covered_span(window)
            early = _seconds(covers.start) - first
            late = final - moved - _seconds(covers.end)
            if max(early, late) > self.step + 0.1:
                yield f"the window of {first - told.host:.2f} covers {_format_span(covers)}"

    def wrong_clock(self) -> Iterator[str]:
        """The host's clock is followed, but for a step ahead that is young."""
        steps = self.plan.host.steps
        for at, by in self.simulation.clock_errors:
            young = any(0 <= at - self._noticed(s.at) <= 62 and s.by > 5 for s in steps)
            paused = any(p.start <= at <= p.end + 1 for p in self._periods(PausedProcess))
            if abs(by) > 0.6 and not (by > 5 and young) and not paused:
                yield f"at {at:.1f} the clock is {by:+.2f} s from the wall"

    def _noticed(self, at: float) -> float:
        """Return when this process runs again after an instant."""
        return max([at] + [p.end for p in self._periods(PausedProcess) if p.start <= at <= p.end])

    def stills(self) -> Iterator[StillTime]:
        """Yield the time of each still, by the host's clock or where it is used the camera's."""
        shown = {row[0].frame.number: row for row in self._shown_frames()}
        last: Window | None = None
        for told, window in self.windows:
            offset = window.clock.offset if window.clock.source is ClockSource.CAMERA_NTP else 0.0
            follows = last is not None and _follows_at_once(last, window)
            last = window
            for still in window.stills:
                each, before, least, exact = shown[_number(still.jpeg)]
                true = each.frame.true_time
                latest = true + max(self.step, least + TOLERANCE) if exact else each.read
                yield StillTime(
                    reported=_seconds(still.at) - offset - told.host,
                    true_time=true,
                    is_exact=exact,
                    earliest=true - self.step if exact else min(before, true - self.slack),
                    latest=latest + (MAX_CLOCK_STEP if follows else 0.0),
                )

    def _shown_frames(self) -> Iterator[tuple[ShownFrame, float, float, bool]]:
        """Yield what was shown, and what the worker can know of the time of each.

        That is when the last frame that came on time, behind another, was taken, how late the
        least late one of the connection came, and whether the stamp tells the truth: where stamps
        begin anew, that is so once a frame came on time, and never where a connection began on a
        machine that was too slow already.
        """
        on_time, before, least, is_settled, began_late = 0.0, 0.0, 0.0, True, False
        usual = self.plan.delay + self.plan.jitter + TOLERANCE
        begins_anew = self.plan.stamps in {"wraps", "resets"}
        connected = list(self.simulation.connections)
        for each in self.simulation.shown_frames:
            late = each.read - each.frame.true_time
            if connected and each.read >= connected[0]:
                connected.pop(0)
                least = late
                began_late = late > usual and not self.plan.burst
            least = min(least, late)
            is_on_time = late < usual
            is_settled = each.frame.is_exact and (is_settled or is_on_time)
            is_exact = is_settled if begins_anew else each.frame.is_exact
            yield each, on_time, least, is_exact and not began_late
            follows = each.frame.true_time - before < _HOLE
            on_time = each.frame.true_time if is_on_time and follows else on_time
            before = each.frame.true_time

    # The truth.

    def calm(self) -> Spans:
        """Return the time in which pictures came without a break, but for its beginning and end."""
        window = self.plan.window
        edges = self._breaks()
        found: Spans = []
        for run in _runs(self.simulation.shown_frames, self._gap):
            start, until = run[0].read, run[-1].read
            inner = [each for each in edges if start < each < until]
            for first, last in pairwise([start, *inner, until]):
                if any(p.start < last and first < p.end + 15 for p in self._periods(SlowMachine)):
                    continue
                low = first + max(5.0, 4 * self.step) + self.slack
                high = last - 2 * window - self.slack
                if low < high:
                    found.append((low, high))
        return found

    @property
    def _gap(self) -> float:
        return max(min(3.0, self.plan.window / 2), 2 * self.step, 2 * self.plan.interval)

    def _periods(self, kind: type[PeriodT]) -> list[PeriodT]:
        return [each for each in self.plan.periods if isinstance(each, kind)]

    def _breaks(self) -> list[float]:
        """Return when something ended the window in hand, or made frames late."""
        steps = [step.at for step in self.simulation.clock.followed]
        wall = self.plan.camera_wall
        steps += [step.at + n * 5.0 for step in (wall.steps if wall else ()) for n in (0, 1)]
        periods = [each for period in self.plan.periods for each in (period.start, period.end)]
        slow = [p.end + 15 for p in self.plan.periods if isinstance(p, SlowMachine)]
        return sorted([*steps, *periods, *slow, *self.simulation.losses])

    def _allowed(self) -> dict[CoverageState, Spans]:
        """Return where each state may be claimed."""
        shown, slack = self.simulation.shown_frames, self.slack
        down = [(self._before(at), self._after(at) + _BACKLOG) for at in self.simulation.losses]
        first = min([each.read for each in shown[:1]] + self.simulation.losses[:1], default=1e9)
        pauses = [(self._before(p.start), p.end) for p in self._periods(PausedProcess)]
        silent = self._silent()
        if shown:
            silent.append((shown[-1].frame.true_time, self.plan.seconds))
        around = [(at - 5 * self.step, at + 5 * self.step) for at in self._breaks()]
        wall = self.plan.camera_wall
        around += [(s.at - 5 * self.step, s.at + 6) for s in (wall.steps if wall else ())]
        first_frame = shown[0].read if shown else 1e9
        slow = [(p.start, p.end + 15) for p in self._periods(SlowMachine)]
        down = [part for span in down for part in self._without_pauses(span)]
        allowed = {
            CoverageState.CAMERA_DOWN: down,
            CoverageState.INGEST_DOWN: [(0.0, first), *pauses],
            CoverageState.STREAM_BROKEN: [
                (0.0, first_frame + 2.0),
                *silent,
                *around,
                *((a - 5 * self.step, b + 5 * self.step) for a, b in silent + slow),
            ],
            CoverageState.OVERLOADED: slow,
        }
        return {
            state: [(a - slack, b + slack) for a, b in spans] for state, spans in allowed.items()
        }

    def _silent(self) -> Spans:
        """Return where no picture came for a while: the camera or the network withheld them."""
        return [
            (a.frame.true_time - 0.1, b.read + 0.1)
            for a, b in pairwise(self.simulation.shown_frames)
            if max(b.frame.true_time - a.frame.true_time, b.read - a.read)
            > min(_HOLE, 1.5 * self.step)
        ]

    def _without_pauses(self, span: tuple[float, float]) -> Spans:
        """Return the parts of a span in which this process ran: a long pause is its own cause."""
        pauses = [(p.start, p.end) for p in self._periods(PausedProcess) if p.end - p.start > 5.0]
        return _uncovered_parts(span, pauses)

    def _before(self, at: float) -> float:
        """Return when the last picture before an instant was taken."""
        return max(
            (e.frame.true_time for e in self.simulation.shown_frames if e.read <= at), default=0.0
        )

    def _after(self, at: float) -> float:
        """Return when the first picture after an instant was read."""
        return min((e.read for e in self.simulation.shown_frames if e.read > at), default=1e9)


def _runs(shown: Sequence[ShownFrame], gap: float) -> Iterator[list[ShownFrame]]:
    run: list[ShownFrame] = []
    for each in shown:
        if run and each.read - run[-1].read > gap:
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def _uncovered_parts(span: tuple[float, float], allowed: Spans) -> Spans:
    """Return the parts of a span that no allowed one covers."""
    found, reached = [], span[0]
    for start, end in sorted(allowed):
        if start > reached + 0.01 and reached < span[1]:
            found.append((reached, min(start, span[1])))
        reached = max(reached, end)
    if reached < span[1] - 0.01:
        found.append((reached, span[1]))
    return [(a, b) for a, b in found if b - a > 0.05]


def _follows_at_once(last: Window, window: Window) -> bool:
    """Return whether a window was moved behind the last one: the camera's clock went back."""
    return window.start - last.end <= timedelta(milliseconds=2)


def _seconds(instant: datetime) -> float:
    return instant.timestamp()


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _format_span(span: TimeSpan) -> str:
    return f"{_seconds(span.start) - EPOCH:.2f} to {_seconds(span.end) - EPOCH:.2f}"
