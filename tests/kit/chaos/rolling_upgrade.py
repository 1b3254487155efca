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

from alerts.intake.cursor import READER
from kit.alerts.webhook_receiver import SECRET, ReceivedPost, RecordingReceiver, run_receiver
from kit.chaos.alert_process import CAMERAS, AlertProcess, LiveFindingProducer
from kit.chaos.alerts_kills import is_settled
from kit.deploy.command import ROOT
from kit.kafka.broker import Broker
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore
from storage.db.database import engine_for
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import read_range
from storage.records.deliveries import DeliveryState
from storage.records.records import LIVE_STATES
from storage.records.topics import FINDINGS, INCIDENTS
from storage.records.wire import decode_incident

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
class UpgradeResult:
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
class UpgradeSite:
    """A broker, a database and a receiver, and the generations of `alert` on them."""

    folder: Path
    place: KafkaConfig
    database: str
    receiver: RecordingReceiver
    log: KafkaLog
    store: AlertStore
    producer: LiveFindingProducer
    processes: list[AlertProcess] = field(default_factory=list)
    upgrades: list[Upgrade] = field(default_factory=list)
    left_open: int = 0
    number: int = 0

    def start(self, code: Path = ROOT) -> AlertProcess:
        """Start the next generation, with other settings than the one before."""
        self.number += 1
        made = AlertProcess(self.number, self._settings(), code)
        self.processes.append(made)
        return made

    def stop(self, generation: AlertProcess) -> None:
        """Stop one as an init system does."""
        generation.stop()
        self.processes.remove(generation)

    def kill(self, generation: AlertProcess) -> None:
        """Kill one, and all that it started."""
        generation.kill()
        self.processes.remove(generation)

    def wait_until_posted(self, generation: AlertProcess) -> None:
        """Return once a generation has posted anything."""
        wait_for(
            lambda: any(sender_number(each) == generation.number for each in self._posts()), 60
        )

    def count_open_of_other_versions(self, version: str) -> int:
        """Return how many incidents are live of another version of the rule."""
        return sum(each.rule_version != version for each in self.store.incidents(LIVE_STATES))

    def measure(
        self,
        order: str,
        new: AlertProcess,
        ended: datetime,
        retired_within: float = RETIRED_SECONDS,
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

    def _await_retirement(self, new: AlertProcess, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not (left := self.count_open_of_other_versions(new.version)):
                return
            time.sleep(0.05)
        self.left_open += left

    def _first_of(self, generation: AlertProcess, since: datetime) -> ReceivedPost | None:
        """Return the first post of a generation about an incident that began since."""
        for post in self._posts():
            if sender_number(post) == generation.number and any(
                datetime.fromisoformat(each["first_seen_at"]) > since for each in incidents_in(post)
            ):
                return post
        return None

    def _delays(self, since: datetime) -> Iterator[float]:
        """Yield how long after its finding each incident was told that began since, or just."""
        offset = _now().timestamp() - time.monotonic()
        known = set[str]()
        for post in self._posts():
            for each in incidents_in(post):
                if each["id"] not in known:
                    known.add(each["id"])
                    began = datetime.fromisoformat(each["first_seen_at"])
                    if (since - began).total_seconds() < 2.0:
                        yield post.at + offset - began.timestamp()

    def finish(self) -> UpgradeResult:
        """End what is given, wait until all is judged and told, and count what is wrong."""
        self.producer.stop()
        partitions = self.log.partitions(FINDINGS)
        wait_for(
            lambda: all(
                self.store.committed_offset(READER, partition) >= self.log.end_offset(partition)
                for partition in partitions
            ),
            60,
        )
        wait_for(lambda: is_settled(self.store), 60)
        assert self.store.verify_audit().problem is None
        return self._result()

    def _result(self) -> UpgradeResult:
        given = {finding.id for finding in self.producer.findings()}
        stored = {each.id for each in self.store.findings(given)}
        deliveries = self.store.deliveries()
        ids = Counter(self.receiver.ids())
        published = self._published()
        made = [
            (str(each.id), number)
            for each in self.store.incidents()
            for number in range(1, each.revision + 1)
        ]
        return UpgradeResult(
            upgrades=len(self.upgrades),
            findings=len(given),
            incidents=len(self.store.incidents()),
            posts=ids.total(),
            findings_lost=len(given - stored),
            undelivered=sum(each.state is not DeliveryState.DELIVERED for each in deliveries)
            + len({str(each.id) for each in deliveries} ^ ids.keys()),
            posted_twice=_count_repeats(ids.values()),
            nothing_new=self._count_repeated_messages(),
            left_open=self.left_open + len(self.store.incidents(LIVE_STATES)),
            revisions_lost=len(set(made) - set(published)),
            revisions_twice=_count_repeats(Counter(published).values()),
            out_of_order=sum(
                a[0] == b[0] and a[1] > b[1] for a, b in pairwise(sorted(published, key=_incident))
            ),
        )

    def _posts(self) -> list[ReceivedPost]:
        return list(self.receiver.posts)

    def _count_repeated_messages(self) -> int:
        """Return how many messages tell no incident for the first time in its state."""
        known, count = set[tuple[str, str]](), 0
        for post in {post.headers["webhook-id"]: post for post in self.receiver.posts}.values():
            states = {(each["id"], each["state"]) for each in incidents_in(post)}
            count += states <= known
            known |= states
        return count

    def _published(self) -> list[tuple[str, int]]:
        found = list[tuple[str, int]]()
        for partition in self.log.partitions(INCIDENTS):
            for entry in read_range(self.log, partition, 0, self.log.end_offset(partition), 1000):
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
def run_site(folder: Path, broker: Broker, database: str) -> Iterator[UpgradeSite]:
    """Give findings all the time; no `alert` runs yet."""
    kafka_config = broker.place(partitions=3)
    with run_receiver() as receiver, closing(KafkaLog(kafka_config)) as log:
        engine = engine_for(database)
        producer = LiveFindingProducer(log)
        site = UpgradeSite(
            folder, kafka_config, database, receiver, log, AlertStore(engine), producer
        )
        try:
            yield site
        finally:
            for each in list(site.processes):
                site.kill(each)
            producer.stop()
            engine.dispose()


def new_first(site: UpgradeSite, old: AlertProcess) -> AlertProcess:
    """Start the new one beside the old one, then stop the old one."""
    new, _ = _beside(site, "new first", lambda: site.stop(old))
    return new


def old_first(site: UpgradeSite, old: AlertProcess) -> AlertProcess:
    """Stop the old one, then start the new one."""
    time.sleep(1.0)
    ended = _now()
    site.stop(old)
    new = site.start()
    new.wait_for_line("leads")
    site.measure("old first", new, ended)
    return new


def killed(site: UpgradeSite, old: AlertProcess) -> AlertProcess:
    """Kill the old one while the new one stands by."""
    new, _ = _beside(site, "killed", lambda: site.kill(old))
    return new


def frozen(site: UpgradeSite, old: AlertProcess, seconds: float = 20.0) -> AlertProcess:
    """Let the old one hang for so long while the new one stands by; it ends as it goes on."""
    new, ended = _beside(site, "frozen", lambda: old.signal(signal.SIGSTOP))
    time.sleep(max(0.0, seconds - (_now() - ended).total_seconds()))
    standby_count = old.stderr.count("stands by")
    old.signal(signal.SIGCONT)
    old.wait_for_line("expired here and")
    wait_for(lambda: old.stderr.count("stands by") > standby_count, 60)
    site.stop(old)
    return new


def _beside(
    site: UpgradeSite, order: str, end: Callable[[], None]
) -> tuple[AlertProcess, datetime]:
    """End the old one while the new one stands by; return the new one, and when that was."""
    new = site.start()
    new.wait_for_line("stands by")
    time.sleep(1.0)
    ended = _now()
    end()
    new.wait_for_line("leads")
    site.measure(order, new, ended)
    return new, ended


def beside_first(site: UpgradeSite, old: AlertProcess, seconds: float = 10.0) -> AlertProcess:
    """Start the new one, let both work for so long, and stop the old one, which heeds no lease."""
    new = site.start()
    new.wait_for_line("leads")
    time.sleep(seconds)
    ended = _now()
    site.stop(old)
    site.measure("side by side", new, ended, RETIRED_BESIDE_OLDER_SECONDS)
    return new


ORDERS: Sequence[Callable[[UpgradeSite, AlertProcess], AlertProcess]] = (new_first, old_first)


def sender_number(post: ReceivedPost) -> int:
    """Return the number of the generation that sent a post."""
    return int(post.path.rpartition("&by=")[2])


def incidents_in(post: ReceivedPost) -> list[dict[str, str]]:
    """Return the incidents in a post."""
    incidents: list[dict[str, str]] = json.loads(post.body)["data"]["incidents"]
    return incidents


def _count_repeats(counts: Iterable[int]) -> int:
    return sum(count - 1 for count in counts)


def _incident(published: tuple[str, int]) -> str:
    return published[0]


def _now() -> datetime:
    return datetime.now(UTC)
