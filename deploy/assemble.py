"""From settings to what the packages are built of: plain values, and the roles to run."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from alerts.health import PREFIX, ROLE_DOWN, UNDELIVERED
from alerts.heartbeat import Heartbeat
from alerts.hours import Hours
from alerts.retention import KeepFor
from alerts.routing import Route, Routing
from alerts.rules import Rule
from alerts.settings import HeartbeatSettings, InhibitSettings, RouteSettings, RuleSettings
from alerts.silences import Inhibition, Maintenance, Matcher
from alerts.tickets import Asked, Describer, Origin, Wording
from analyzer.errors import ModelUnusable
from analyzer.questions import Question
from analyzer.settings import MemorySettings, QuestionSettings
from analyzer.site import plan_of
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.outline import Outline
from analyzer.videoxl2.snapshot import Snapshot
from analyzer.zones import zones_of
from deploy import daemon
from deploy.admission import shapes_of, site_of
from deploy.daemon import Role
from deploy.data import Places, places_of
from deploy.devices import devices_of
from deploy.errors import BadSettings
from deploy.log_space import retention_of
from deploy.logs import Logging
from deploy.parts import NamesPart, WordsPart
from deploy.receivers import receivers_of, secrets_of
from deploy.settings import HasRules, Key, Settings, matching
from ingest.camera import Camera, Decode
from ingest.settings import CameraSettings
from storage.kafka_place import KafkaPlace, Sasl, StaticMember, Tls, member_name
from storage.retention import RETENTION, Retention
from storage.settings import KafkaSettings, SaslSettings, StaticSettings

SILENCE = timedelta(minutes=5)
"""A shorter silence never dismisses a pending incident."""
HOLDS = 0.5
"""Health is told as 1 or 0."""
NO_SILENCE = timedelta(days=36500)
FORGOTTEN_AFTER = timedelta(minutes=20)
"""A third of the time after which nothing more was lost on the way to a receiver."""


def model_problems(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield what is wrong with the files of the model, as far as that shows without loading."""
    yield from _problems(settings, Snapshot.find)


def shape_problems(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield the same, but for a model that can be reckoned with before it is fetched."""
    yield from _problems(settings, Outline.find)


def _problems(
    settings: Settings, find: Callable[[str, str | None], Snapshot | Outline]
) -> Iterator[tuple[Key, str]]:
    try:
        config = find(settings.model.name, settings.model.revision).config
    except ModelUnusable as error:
        yield ("model", "name"), str(error)
    else:
        yield from _compression_problems(settings.memory, config)
        yield from _zone_problems(settings.questions, config)


def _compression_problems(
    memory: MemorySettings, config: VideoXL2Config
) -> Iterator[tuple[Key, str]]:
    tokens = config.tokens_per_group
    if tokens % memory.compression:
        known = ", ".join(str(n) for n in range(1, tokens + 1) if tokens % n == 0)
        told = f"does not divide the {tokens} visual tokens of a group: choose one of {known}"
        yield ("memory", "compression"), told


def _zone_problems(
    questions: Mapping[str, QuestionSettings], config: VideoXL2Config
) -> Iterator[tuple[Key, str]]:
    """Yield the questions about zones where the model was not taught what an outline is."""
    if config.knows_outlines:
        return
    for name, question in questions.items():
        if question.zone is not None:
            told = "nano was not taught zones: take `zone` out, or choose another model"
            yield ("questions", name, "zone"), told


def chosen_camera(settings: Settings, name: str | None) -> str:
    """Return the camera whose questions are asked; raises BadSettings when that is unclear."""
    known = ", ".join(settings.cameras)
    if name is None and len(settings.cameras) > 1:
        raise BadSettings(f"there are several cameras: choose one by --camera ({known})")
    if name is not None and name not in settings.cameras:
        raise BadSettings(f"no camera is called {name!r}: choose one of {known}")
    return name or next(iter(settings.cameras))


def camera_of(name: str, settings: CameraSettings) -> Camera:
    """Return a camera from its settings."""
    return Camera(
        name=name,
        url=settings.url.get_secret_value(),
        fps=settings.fps,
        stills_per_window=settings.stills_per_window,
        transport=settings.transport,
        still_side=settings.still_side,
        jpeg_quality=settings.jpeg_quality,
        mask=settings.mask,
        redirects=tuple(settings.redirects),
        decode=Decode(frames=settings.decode.frames, hardware=settings.decode.hardware),
    )


def question_of(name: str, settings: QuestionSettings, cameras: Mapping[str, object]) -> Question:
    """Return a question from its settings, with its zone on each camera that it concerns."""
    asked = {camera: cameras[camera] for camera in settings.cameras or cameras if camera in cameras}
    return Question(
        name=name,
        ask=settings.ask,
        cameras=frozenset(settings.cameras),
        every=settings.every,
        look_back=settings.look_back,
        zone=settings.zone,
        zones={
            camera: zone
            for camera, each in asked.items()
            for zone in (zones_of(each.zones) if isinstance(each, CameraSettings) else ())
            if zone.name == settings.zone
        },
    )


def rule_of(settings: RuleSettings, question: str, every: timedelta) -> Rule:
    """Return a rule from its settings, about a question that is asked so often.

    Without `below` it closes where it opens. Three answers in a row have to be missing before
    a pending incident counts as unheard of.
    """
    above = HOLDS if settings.above is None else settings.above
    hours = [each.text[0] for each in settings.active]
    return Rule(
        name=settings.name,
        question=question,
        above=above,
        below=above if settings.below is None else settings.below,
        then=settings.then,
        without=settings.without,
        within=settings.within or timedelta(),
        cameras=tuple(settings.cameras),
        for_=settings.for_,
        keep_firing_for=settings.keep_firing_for,
        quiet=settings.quiet,
        active=Hours.parse(*hours) if hours else None,
        stale_after=max(SILENCE, 3 * every),
        severity=settings.severity,
        notify=tuple(settings.notify),
    )


def heartbeat_of(settings: HeartbeatSettings) -> Heartbeat:
    """Return a heartbeat from its settings."""
    return Heartbeat(every=settings.every, notify=tuple(settings.notify))


def route_of(settings: RouteSettings, default: Route) -> Route:
    """Return how a receiver is told: what is written, else as the default."""
    limit = settings.rate_limit
    return Route(
        group_by=default.group_by if settings.group_by is None else tuple(settings.group_by),
        group_wait=_else(settings.group_wait, default.group_wait),
        urgent_wait=_else(settings.urgent_wait, default.urgent_wait),
        group_interval=_else(settings.group_interval, default.group_interval),
        repeat_interval=_else(settings.repeat_interval, default.repeat_interval),
        rate_limit=default.rate_limit if limit is None else None if limit == "none" else limit,
        digest_after=settings.digest_after or default.digest_after,
    )


def routes_of(settings: Settings | NamesPart) -> Routing:
    """Return how all are notified, without what mutes."""
    default = route_of(settings.route, Route())
    named = {name: each.route for name, each in settings.receivers.items()}
    receivers = {name: route_of(each, default) for name, each in named.items()}
    return Routing(default=default, receivers=receivers)


def routing_of(settings: Settings) -> Routing:
    """Return how all are told."""
    return replace(
        routes_of(settings),
        inhibit=tuple(inhibition_of(each, settings) for each in settings.inhibit),
        maintenance=tuple(
            Maintenance(cameras=tuple(each.cameras), active=each.active)
            for each in settings.maintenance
        ),
        health=frozenset(rule.name for rule in settings.rules if rule.health is not None),
        pagers=frozenset(name for name, each in settings.receivers.items() if each.pagerduty),
    )


def inhibition_of(settings: InhibitSettings, all_: Settings) -> Inhibition:
    """Return an inhibition; its source is the names of rules."""
    source = settings.source
    named = [
        rule.name
        for rule in all_.rules
        if (rule.name == source.rule if source.rule else rule.health == source.health)
    ]
    target = settings.target.model_dump(exclude_none=True)
    return Inhibition(
        source=frozenset(named),
        target=tuple(Matcher(label=label, op="=", value=value) for label, value in target.items()),
        equal=tuple(settings.equal),
    )


def _else(written: timedelta | None, default: timedelta) -> timedelta:
    return default if written is None else written


def questions_of(settings: HasRules) -> list[Question]:
    """Return all questions."""
    return [question_of(name, each, settings.cameras) for name, each in settings.questions.items()]


def rules_of(settings: HasRules) -> list[Rule]:
    """Return all rules: one for each question that `when` stands for.

    What the ledger of coverage says of an interval holds for all of it, so that a health rule
    knows no silence. That nothing more was lost on the way to a receiver nobody says.
    """
    rules = []
    for each in settings.rules:
        if each.health is not None:
            is_mute = each.health in (UNDELIVERED, ROLE_DOWN)
            silence = FORGOTTEN_AFTER if is_mute else NO_SILENCE
            rules.append(rule_of(each, PREFIX + each.health, silence))
        for name in matching(each.when, settings.questions):
            if name not in (each.then, each.without):
                rules.append(rule_of(each, name, settings.questions[name].every))
    return rules


def origin_of(settings: Settings | WordsPart) -> Origin:
    """Return which longwatch messages come from."""
    return Origin(site=settings.site, labels=settings.labels)


def describer_of(settings: Settings | WordsPart) -> Describer:
    """Return who describes incidents, with all that the settings say of them."""
    questions = questions_of(settings)
    titles = {name: camera.title for name, camera in settings.cameras.items()}
    return Describer(
        rules=tuple(rules_of(settings)),
        wordings={
            rule.name: Wording(summary=rule.summary or "", description=rule.description or "")
            for rule in settings.rules
        },
        questions={each.name: Asked(ask=each.ask, version=each.version) for each in questions},
        titles={name: title for name, title in titles.items() if title},
        external_url=settings.external_url or "",
        origin=origin_of(settings),
    )


def kafka_place_of(
    settings: KafkaSettings, site: str = "", kept: Sequence[Retention] = RETENTION
) -> KafkaPlace:
    """Return where a log on Kafka is, what it keeps, and the site that its events name."""
    tls, sasl, static = settings.tls, settings.sasl, settings.static
    return KafkaPlace(
        bootstrap=tuple(settings.bootstrap),
        prefix=settings.prefix,
        partitions=settings.partitions,
        replication=settings.replication,
        compression=settings.compression,
        timeout=settings.timeout.total_seconds(),
        session=settings.session.total_seconds(),
        static=None if static is None else _static(static),
        tls=Tls(ca=tls.ca, certificate=tls.certificate, key=tls.key) if tls else None,
        sasl=None if sasl is None else _sasl(sasl),
        retention=tuple(kept),
        site=site,
    )


def _sasl(settings: SaslSettings) -> Sasl:
    password = settings.password.get_secret_value()
    return Sasl(mechanism=settings.mechanism, user=settings.user, password=password)


def _static(settings: StaticSettings) -> StaticMember:
    name = settings.name or member_name(socket.gethostname())
    return StaticMember(name=name, session=settings.session.total_seconds())


def analyzer_places(settings: Settings, device: str) -> Places:
    """Return the places of the analyzer on a device, by which it is called in its group."""
    places = places_of(settings)
    log = places.log
    if not isinstance(log, KafkaPlace) or log.static is None:
        return places
    return replace(places, log=replace(log, static=log.static.on(device)))


def secrets_of_places(settings: Settings) -> list[SecretStr]:
    """Return the passwords of the log and the database, the latter also as part of its url."""
    found = list[SecretStr]()
    if settings.log.kafka and settings.log.kafka.sasl:
        found.append(settings.log.kafka.sasl.password)
    if settings.database is not None:
        found.append(settings.database)
        password = urlsplit(settings.database.get_secret_value()).password
        found += [SecretStr(text) for text in {password, password and unquote(password)} if text]
    return found


def roles_of(settings: Settings, level: int = logging.INFO) -> list[Role]:
    """Return the roles of one machine; a role knows the secrets that it needs, no others."""
    return [
        *analyzer_roles(settings, level),
        alerts_role(settings, level),
        *(camera_role(settings, name, level) for name in settings.cameras),
    ]


def camera_role(settings: Settings, name: str, level: int) -> Role:
    """Return the role that watches one camera."""
    camera = settings.cameras[name]
    return Role(
        name=f"camera-{name}",
        work=daemon.watch_camera,
        arguments={"camera": camera_of(name, camera), "places": places_of(settings)},
        logging=_logging(level, [camera.url, *secrets_of_places(settings)]),
        is_forked=True,
    )


def analyzer_roles(settings: Settings, level: int) -> list[Role]:
    """Return the roles that answer questions: one for each device, which share the cameras."""
    devices = devices_of(settings.model.device)
    if len(devices) == 1:
        return [analyzer_role(settings, level, device=devices[0])]
    return [
        analyzer_role(settings, level, name=f"analyzer-{number}", device=device)
        for number, device in enumerate(devices)
    ]


def analyzer_role(
    settings: Settings, level: int, *, name: str = "analyzer", device: str | None = None
) -> Role:
    """Return the role that answers questions on one device."""
    device = device or settings.model.one_device
    return Role(
        name=name,
        work=daemon.analyze,
        arguments={
            "model": settings.model.name,
            "revision": settings.model.revision,
            "device": device,
            "dtype": settings.model.dtype,
            "plan": plan_of(settings.memory),
            "shapes": shapes_of(settings),
            "questions": questions_of(settings),
            "site": site_of(settings),
            "clock_tolerance": settings.clock_tolerance,
            "places": analyzer_places(settings, device),
        },
        logging=_logging(level, secrets_of_places(settings)),
    )


def alerts_role(settings: Settings, level: int) -> Role:
    """Return the role that judges and delivers."""
    receivers = receivers_of(settings)
    return Role(
        name="alerts",
        work=daemon.alert,
        arguments={
            "rules": rules_of(settings),
            "receivers": receivers,
            "routing": routing_of(settings),
            "heartbeat": heartbeat_of(settings.heartbeat) if settings.heartbeat else None,
            "describer": describer_of(settings),
            "cameras": tuple(settings.cameras),
            "keep": KeepFor(**settings.retention.model_dump()),
            "keep_log": retention_of(settings.log, settings.data),
            "clock_tolerance": settings.clock_tolerance,
            "places": places_of(settings),
        },
        logging=_logging(level, [*secrets_of_places(settings)], *secrets_of(receivers)),
    )


def _logging(level: int, secrets: Sequence[SecretStr], *plain: str) -> Logging:
    found = tuple(secret.get_secret_value() for secret in secrets)
    return Logging(level=level, secrets=(*found, *plain))
