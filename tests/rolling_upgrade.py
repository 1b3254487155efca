"""`longwatch alert` upgraded under load, over Kafka and PostgreSQL, and what must be left of it.

Each generation has settings of its own: another threshold, so that the rule has another version,
another grouping, and another path that it posts to, so that each post says who sent it.
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from alert_generations import CAMERAS, Generation, Giver
from alerts_fixtures import SECRET, Posted, Receiver, receiving
from alerts_kills import is_told
from deploy_fixtures import ROOT
from kafka_broker import Broker
from storage_fixtures import wait_for

from alerts.reading import READER
from storage.database import engine_of
from storage.incidents import IncidentStore
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.log import FINDINGS, INCIDENTS, between
from storage.records import LIVE, DeliveryState
from storage.wire import decode_incident

THRESHOLDS = (0.8, 0.7)
RETIRED_SECONDS, RETIRED_BESIDE_OLDER_SECONDS = 10.0, 130.0
"""How long an incident of a version that nobody runs may stay open; one that an older release
began beside the new one, for a minute and two ticks more."""
SITE = """\
cameras: {{{cameras}}}
questions:
  bag: {{ask: "Is there a bag?", every: 16s}}
rules:
  - {{name: bag-left, when: bag, above: {above}, below: 0.5, notify: [soc]}}
route: {{group_by: [{group_by}], group_wait: 0s, group_interval: 1s, rate_limit: none}}
receivers:
  soc: {{webhook: {{url: "{url}&by={number}", secret: {secret}, allow_private: true}}}}
data: {data}
database: {database}
log:
  kafka: {{bootstrap: ["{broker}"], prefix: "{prefix}", partitions: {partitions},
          session: {session}s, timeout: {timeout}s}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """One upgrade: in which order, and its figures in seconds.

    `quiet` is from when the old is ended to the first webhook of the new about an incident that
    began after that; `late` is the longest that a webhook came after its finding; `retired` is
    until no incident of the old version was open.
    """

    order: str
    quiet: float
    late: float
    retired: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What was done, and all that may be wrong with it, as counts.

    `posted_twice` are posts with a webhook-id that came before; `nothing_new` are those with an
    id of their own that repeat what was told before.
    """

    upgrades: int
    findings: int
    incidents: int
    posts: int
    findings_lost: int
    undelivered: int
    posted_twice: int
    nothing_new: int
    left_open: int
    revisions_lost: int
    revisions_twice: int
    out_of_order: int

    @property
    def wrong(self) -> dict[str, int]:
        """Return the counts that should be 0, and are not."""
        counts = asdict(self)
        done = ("upgrades", "findings", "incidents", "posts")
        return {name: count for name, count in counts.items() if count and name not in done}


@dataclass(slots=True)
class Site:
    """A broker, a database and a receiver, and the generations of `alert` on them."""

    folder: Path
    place: KafkaPlace
    database: str
    receiver: Receiver
    log: KafkaLog
    store: IncidentStore
    giver: Giver
    running: list[Generation] = field(default_factory=list)
    upgrades: list[Upgrade] = field(default_factory=list)
    left_open: int = 0
    number: int = 0

    def start(self, code: Path = ROOT) -> Generation:
        """Start the next generation, with other settings than the one before."""
        self.number += 1
        made = Generation(self.number, self._settings(), code)
        self.running.append(made)
        return made

    def stop(self, generation: Generation) -> None:
        """Stop one as an init system does."""
        generation.stop()
        self.running.remove(generation)

    def kill(self, generation: Generation) -> None:
        """Kill one, and all that it started."""
        generation.kill()
        self.running.remove(generation)

    def wait_until_posted(self, generation: Generation) -> None:
        """Return once a generation has posted anything."""
        wait_for(lambda: any(sender(each) == generation.number for each in self._posts()), 60)

    def open_of_others(self, version: str) -> int:
        """Return how many incidents are live of another version of the rule."""
        return sum(each.rule_version != version for each in self.store.incidents(LIVE))

    def measure(
        self, order: str, new: Generation, ended: datetime, retired_within: float = RETIRED_SECONDS
    ) -> None:
        """Wait until the new generation does all of the work, and keep how long it took."""
        since = _now()
        self._await_retirement(new, retired_within)
        retired = (_now() - since).total_seconds()
        wait_for(lambda: self._first_of(new, ended) is not None, 60)
        first = self._first_of(new, ended)
        assert first is not None
        quiet = first.at - time.monotonic() + (_now() - ended).total_seconds()
        time.sleep(2.0)
        late = max(self._delays(ended), default=0.0)
        upgrade = Upgrade(
            order=order, quiet=round(quiet, 2), late=round(late, 2), retired=round(retired, 2)
        )
        self.upgrades.append(upgrade)

    def _await_retirement(self, new: Generation, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not (left := self.open_of_others(new.version)):
                return
            time.sleep(0.05)
        self.left_open += left

    def _first_of(self, generation: Generation, since: datetime) -> Posted | None:
        """Return the first post of a generation about an incident that began since."""
        for post in self._posts():
            if sender(post) == generation.number and any(
                datetime.fromisoformat(each["first_seen_at"]) > since for each in told(post)
            ):
                return post
        return None

    def _delays(self, since: datetime) -> Iterator[float]:
        """Yield how long after its finding each incident was told that began since, or just."""
        offset = _now().timestamp() - time.monotonic()
        known = set[str]()
        for post in self._posts():
            for each in told(post):
                if each["id"] not in known:
                    known.add(each["id"])
                    began = datetime.fromisoformat(each["first_seen_at"])
                    if (since - began).total_seconds() < 2.0:
                        yield post.at + offset - began.timestamp()

    def settle(self) -> Toll:
        """End what is given, wait until all is judged and told, and count what is wrong."""
        self.giver.end()
        parts = self.log.parts(FINDINGS)
        wait_for(
            lambda: all(self.store.position(READER, part) >= self.log.next(part) for part in parts),
            60,
        )
        wait_for(lambda: is_told(self.store), 60)
        assert self.store.verify().problem is None
        return self._toll()

    def _toll(self) -> Toll:
        given = {finding.id for finding in self.giver.all()}
        stored = {each.id for each in self.store.findings(given)}
        deliveries = self.store.deliveries()
        ids = Counter(self.receiver.ids())
        published = self._published()
        made = [
            (str(each.id), number)
            for each in self.store.incidents()
            for number in range(1, each.revision + 1)
        ]
        return Toll(
            upgrades=len(self.upgrades),
            findings=len(given),
            incidents=len(self.store.incidents()),
            posts=ids.total(),
            findings_lost=len(given - stored),
            undelivered=sum(each.state is not DeliveryState.DELIVERED for each in deliveries)
            + len({str(each.id) for each in deliveries} ^ ids.keys()),
            posted_twice=_again(ids.values()),
            nothing_new=self._nothing_new(),
            left_open=self.left_open + len(self.store.incidents(LIVE)),
            revisions_lost=len(set(made) - set(published)),
            revisions_twice=_again(Counter(published).values()),
            out_of_order=sum(
                a[0] == b[0] and a[1] > b[1] for a, b in pairwise(sorted(published, key=_incident))
            ),
        )

    def _posts(self) -> list[Posted]:
        return list(self.receiver.posts)

    def _nothing_new(self) -> int:
        """Return how many messages tell no incident for the first time in its state."""
        known, count = set[tuple[str, str]](), 0
        for post in {post.headers["webhook-id"]: post for post in self.receiver.posts}.values():
            news = {(each["id"], each["state"]) for each in told(post)}
            count += news <= known
            known |= news
        return count

    def _published(self) -> list[tuple[str, int]]:
        found = list[tuple[str, int]]()
        for part in self.log.parts(INCIDENTS):
            for entry in between(self.log, part, 0, self.log.next(part), 1000):
                incident = decode_incident(entry.value)
                found.append((str(incident.id), incident.revision))
        return found

    def _settings(self) -> Path:
        file = self.folder / f"site-{self.number}.yaml"
        names = {
            "cameras": ", ".join(f"{name}: {{url: 'rtsp://127.0.0.1:9/x'}}" for name in CAMERAS),
            "above": THRESHOLDS[self.number % 2],
            "group_by": ("camera", "camera, rule")[self.number % 2],
            "url": self.receiver.url,
            "number": self.number,
            "secret": SECRET,
            "data": self.folder / f"data-{self.number}",
            "database": self.database,
            "broker": self.place.bootstrap[0],
            "prefix": self.place.prefix,
            "partitions": self.place.partitions,
            "session": round(self.place.session),
            "timeout": round(self.place.timeout),
        }
        file.write_text(SITE.format(**names))
        return file


@contextmanager
def a_site(folder: Path, broker: Broker, database: str) -> Iterator[Site]:
    """Give findings all the time; no `alert` runs yet."""
    place = broker.place(partitions=3)
    with receiving() as receiver, closing(KafkaLog(place)) as log:
        engine = engine_of(database)
        giver = Giver(log)
        site = Site(folder, place, database, receiver, log, IncidentStore(engine), giver)
        try:
            yield site
        finally:
            for each in list(site.running):
                site.kill(each)
            giver.end()
            engine.dispose()


def new_first(site: Site, old: Generation) -> Generation:
    """Start the new one beside the old one, then stop the old one."""
    new, _ = _beside(site, "new first", lambda: site.stop(old))
    return new


def old_first(site: Site, old: Generation) -> Generation:
    """Stop the old one, then start the new one."""
    time.sleep(1.0)
    ended = _now()
    site.stop(old)
    new = site.start()
    new.wait_until_said("leads")
    site.measure("old first", new, ended)
    return new


def killed(site: Site, old: Generation) -> Generation:
    """Kill the old one while the new one stands by."""
    new, _ = _beside(site, "killed", lambda: site.kill(old))
    return new


def frozen(site: Site, old: Generation, seconds: float = 20.0) -> Generation:
    """Let the old one hang for so long while the new one stands by; it ends as it goes on."""
    new, ended = _beside(site, "frozen", lambda: old.signal(signal.SIGSTOP))
    time.sleep(max(0.0, seconds - (_now() - ended).total_seconds()))
    stood_by = old.said.count("stands by")
    old.signal(signal.SIGCONT)
    old.wait_until_said("ran out here and")
    wait_for(lambda: old.said.count("stands by") > stood_by, 60)
    site.stop(old)
    return new


def _beside(site: Site, order: str, end: Callable[[], None]) -> tuple[Generation, datetime]:
    """End the old one while the new one stands by; return the new one, and when that was."""
    new = site.start()
    new.wait_until_said("stands by")
    time.sleep(1.0)
    ended = _now()
    end()
    new.wait_until_said("leads")
    site.measure(order, new, ended)
    return new, ended


def beside_first(site: Site, old: Generation, seconds: float = 10.0) -> Generation:
    """Start the new one, let both work for so long, and stop the old one, which heeds no lease."""
    new = site.start()
    new.wait_until_said("leads")
    time.sleep(seconds)
    ended = _now()
    site.stop(old)
    site.measure("side by side", new, ended, RETIRED_BESIDE_OLDER_SECONDS)
    return new


ORDERS: Sequence[Callable[[Site, Generation], Generation]] = (new_first, old_first)


def sender(post: Posted) -> int:
    """Return the number of the generation that sent a post."""
    return int(post.path.rpartition("&by=")[2])


def told(post: Posted) -> list[dict[str, str]]:
    """Return the incidents in a post."""
    incidents: list[dict[str, str]] = json.loads(post.body)["data"]["incidents"]
    return incidents


def _again(counts: Iterable[int]) -> int:
    return sum(count - 1 for count in counts)


def _incident(published: tuple[str, int]) -> str:
    return published[0]


def _now() -> datetime:
    return datetime.now(UTC)
