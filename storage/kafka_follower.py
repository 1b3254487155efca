"""Following many partitions of Kafka at once, at their ends most of the time."""

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Event

from kafka import TopicPartition
from kafka.errors import KafkaError

from storage.errors import BeyondEnd, StorageBlocked, StorageRefused
from storage.kafka_consumer import (
    Answer,
    PartitionConsumer,
    partition_consumer,
)
from storage.kafka_errors import named
from storage.kafka_fetched import Fetched
from storage.kafka_place import KafkaPlace
from storage.kafka_reader import partition_of
from storage.log import Page, Want
from storage.refusals import RETRY, Use

_IDLE_MS = 500
"""How long a broker keeps a fetch while it has nothing."""
_SOON_MS = 50
"""The same while a part is left out: until the fetch is answered no other can ask for it."""
_LOOK_MS = 200
"""How late `stop` may be noticed."""
_FIRST_SECONDS = 1.0
"""How long a first read waits to be told what is there."""
_AGAIN_SECONDS = 1.0
"""How long a part is left alone that cannot be read on; one that we may not read, for longer."""
_ASK_SECONDS = 2.0
_KEEP_SECONDS = 60.0
"""How long a part that is left out keeps its place."""
_MOST_BYTES = 2**26
_MOST_RECORDS = 5_000
"""Decoded at a time, so that a reader has time for other work."""
_METADATA_MS = 30_000
_BREATH = 0.02
_AHEAD = 2


class _Feed:
    """A partition that is followed: what it brought, and how it is doing."""

    __slots__ = (
        "answer",
        "asked",
        "fetched",
        "given",
        "has_moved",
        "heard",
        "is_new",
        "left_at",
        "part",
        "partition",
    )

    def __init__(self, part: str, partition: TopicPartition, position: int) -> None:
        self.part = part
        self.partition = partition
        self.fetched = Fetched(part, position)
        self.given = position
        """Where the last page ended."""
        self.asked = -1
        self.has_moved = False
        """Whether the last read asked for it from another position than the one before."""
        self.is_new = True
        self.left_at = 0.0
        """When it was last wanted."""
        self.answer: Answer | None = None
        self.heard = 0.0

    def page(self, want: Want) -> Page:
        self.has_moved, self.asked = want.position != self.asked, want.position
        page = self.fetched.page(*want)
        self.given = page.next
        return page


class KafkaFollower:
    """One consumer and one poll for all parts; no part can hold up another.

    Of a part that is not there, by `is_there`, nothing comes.
    """

    def __init__(self, place: KafkaPlace, is_there: Callable[[str], bool]) -> None:
        self._place = place
        self._is_there = is_there
        self._consumer: PartitionConsumer | None = None
        self._feeds: dict[str, _Feed] = {}
        self._parts: dict[TopicPartition, str] = {}
        self._wanted: Mapping[str, Want] = {}
        self._paused: set[TopicPartition] = set()
        self._refused: dict[str, tuple[int, float]] = {}
        self._time = 0.0
        """Seconds in which it was looked for entries, so that a reader's own work counts little."""
        self._looked_at = 0.0

    def read(self, wanted: Mapping[str, Want]) -> list[Page]:
        """Return a page for each of these parts in which anything is there by now.

        Waits only for the first answer to a part.
        """
        with named(self._place):
            consumer = self._connected()
            self._aim(consumer, wanted)
            self._look(consumer, 0)
            self._await_first(consumer)
            self._settle(consumer)
            feeds = self._feeds
            pages = [feeds[part].page(want) for part, want in wanted.items() if part in feeds]
            pages = [page for page in pages if page.next > page.position]
            if not pages:
                self._check_silence(consumer)
            return pages

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came in what was wanted last, `stop` is set, or time is over."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._consumer is None or not self._feeds:
                stop.wait(left)
            elif self._holds_more(self._consumer):
                return
            else:
                self._wait_a_little(self._consumer, stop, left)

    def close(self) -> None:
        """Let go of the connections."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False)

    def _connected(self) -> PartitionConsumer:
        if self._consumer is None:
            self._consumer = partition_consumer(self._place, metadata_max_age_ms=_METADATA_MS)
        return self._consumer

    def _aim(self, consumer: PartitionConsumer, wanted: Mapping[str, Want]) -> None:
        """Place each part where it is wanted, and fetch no others."""
        now = time.monotonic()
        self._wanted = {
            part: want
            for part, want in wanted.items()
            if self._is_there(part) and not self._is_refused(part, want, now)
        }
        for part, want in self._wanted.items():
            feed = self._feeds.get(part)
            if feed is None:
                feed = _Feed(part, partition_of(self._place, part), want.position)
                feed.heard = self._time
                self._feeds[part] = feed
            elif not feed.fetched.holds(want.position):
                feed.fetched = Fetched(part, want.position)
                consumer.seek(feed.partition, want.position)
            feed.left_at = now
        self._assign(consumer, now)
        self._pause(consumer)

    def _is_refused(self, part: str, want: Want, now: float) -> bool:
        position, until = self._refused.get(part, (-1, 0.0))
        if position == want.position and now < until:
            return True
        self._refused.pop(part, None)
        return False

    def _assign(self, consumer: PartitionConsumer, now: float) -> None:
        feeds = self._feeds
        for part in [p for p, each in feeds.items() if each.left_at < now - _KEEP_SECONDS]:
            del feeds[part]
        if self._parts.keys() != {feed.partition for feed in feeds.values()}:
            consumer.place_at({feed.partition: feed.fetched.next for feed in feeds.values()})
            self._parts = {feed.partition: part for part, feed in feeds.items()}
            self._paused &= self._parts.keys()

    def _pause(self, consumer: PartitionConsumer) -> None:
        is_full = sum(feed.fetched.size for feed in self._feeds.values()) > _MOST_BYTES
        paused = {
            feed.partition
            for feed in self._feeds.values()
            if consumer.is_refused(feed.partition) or self._is_enough(feed, is_full=is_full)
        }
        consumer.pause(*(paused - self._paused))
        consumer.resume(*(self._paused - paused))
        for feed in self._feeds.values():
            if feed.partition in self._paused and feed.partition not in paused:
                feed.heard = self._time
        self._paused = paused
        hurry = paused or any(feed.is_new for feed in self._feeds.values())
        consumer.be_patient(_SOON_MS if hurry else _IDLE_MS)

    def _is_enough(self, feed: _Feed, *, is_full: bool) -> bool:
        """Return whether no more of a part is to be fetched for now."""
        want, fetched = self._wanted.get(feed.part), feed.fetched
        if want is None:
            return True
        holds_much = is_full or fetched.size >= self._place.largest
        return len(fetched) >= _AHEAD * want.limit or (holds_much and len(fetched) > 0)

    def _look(self, consumer: PartitionConsumer, milliseconds: int) -> None:
        """Take what was fetched; the consumer's own positions tell of what is no entry."""
        found = consumer.look(milliseconds, _MOST_RECORDS) if self._feeds else {}
        for partition in found.keys() | consumer.moved():
            part = self._parts.get(partition)
            if part in self._feeds:
                self._feeds[part].fetched.add(found.get(partition, ()), consumer.stands(partition))
        now = time.monotonic()
        self._time += min(now - self._looked_at, 1.0)
        self._looked_at = now

    def _await_first(self, consumer: PartitionConsumer) -> None:
        """Wait until each part that is new was answered; not for long, and once."""
        new = [feed for feed in self._feeds.values() if feed.is_new]
        deadline = time.monotonic() + min(_FIRST_SECONDS, self._place.timeout)
        while any(not self._is_known(consumer, feed) for feed in new):
            if time.monotonic() > deadline:
                break
            self._look(consumer, _SOON_MS)
        for feed in new:
            feed.is_new = False
            if feed.partition in consumer.answers:
                self._place.refusals.forget(Use(feed.partition.topic, "READ"))

    def _is_known(self, consumer: PartitionConsumer, feed: _Feed) -> bool:
        is_answered = feed.partition in consumer.answers or consumer.is_refused(feed.partition)
        return is_answered or len(feed.fetched) > 0

    def _settle(self, consumer: PartitionConsumer) -> None:
        """Find out where each part goes on that was refused, once all before that was read."""
        for part, want in self._wanted.items():
            feed = self._feeds[part]
            if consumer.is_refused(feed.partition) and want.position == feed.fetched.next:
                self._go_on(consumer, feed)

    def _go_on(self, consumer: PartitionConsumer, feed: _Feed) -> None:
        position = feed.fetched.next
        try:
            with named(self._place, topic=feed.partition.topic, right="READ"):
                oldest = consumer.go_on(feed.part, feed.partition, _ASK_SECONDS)
        except (StorageBlocked, BeyondEnd) as error:
            rest = RETRY if isinstance(error, StorageRefused) else _AGAIN_SECONDS
            self._refused[feed.part] = position, time.monotonic() + rest
            del self._feeds[feed.part]
            self._assign(consumer, time.monotonic())  # without it, until it is wanted again
            raise
        if oldest > position:
            feed.fetched.forget(oldest)
            consumer.seek(feed.partition, oldest)

    def _check_silence(self, consumer: PartitionConsumer) -> None:
        """Raise KafkaTimeoutError where no broker answers for a part that is fetched."""
        for part in self._wanted:
            feed = self._feeds[part]
            answer = consumer.answers.get(feed.partition)
            if answer != feed.answer or feed.partition in self._paused:
                feed.answer, feed.heard = answer, self._time
            elif self._time - feed.heard > self._place.timeout:
                raise consumer.silence(feed.partition, part)

    def _wait_a_little(self, consumer: PartitionConsumer, stop: Event, seconds: float) -> None:
        """Wait until a fetch is answered; what is wrong is raised when it is read."""
        began = time.monotonic()
        try:
            self._look(consumer, min(_LOOK_MS, int(1000 * seconds) + 1))
        except KafkaError:
            stop.wait(min(seconds, _BREATH))
        if time.monotonic() - began < _BREATH / 4 and not self._holds_more(consumer):
            stop.wait(min(seconds, _BREATH))

    def _holds_more(self, consumer: PartitionConsumer) -> bool:
        return any(self._has_more(consumer, feed) for feed in self._wanted_feeds())

    def _has_more(self, consumer: PartitionConsumer, feed: _Feed) -> bool:
        """Return whether a read would bring more than the last one, or make room, or raise."""
        if feed.fetched.next > feed.given:
            return True
        if feed.partition in self._paused and feed.has_moved:
            return True
        is_read = self._wanted[feed.part].position == feed.fetched.next
        return is_read and consumer.is_refused(feed.partition)

    def _wanted_feeds(self) -> Iterator[_Feed]:
        return (self._feeds[part] for part in self._wanted if part in self._feeds)
