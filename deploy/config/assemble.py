"""From settings to what the packages are built of: plain values, and the roles to run."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from alerts.dispatch.describer import Describer, QuestionWording, RuleTemplates
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.dispatch.messages import MessageOrigin
from alerts.dispatch.muting import Inhibition, Matcher
from alerts.hours import Hours
from alerts.notify.receivers import Receiver
from alerts.rules.health import HEALTH_PREFIX, NEVER_CLEARED
from alerts.rules.rule import Rule
from alerts.settings import InhibitSettings, RouteSettings, RuleSettings
from analyzer.capacity.demand import plan_of
from analyzer.errors import ModelUnusable
from analyzer.models.files import ModelFiles
from analyzer.models.model_shape import ModelShape
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.questions.question import Question
from analyzer.settings import MemorySettings, QuestionSettings
from analyzer.zones import zones_of
from deploy.checks.memory import build_site, window_shapes
from deploy.config.data_dir import EVIDENCE_FOLDER, StorageLocations, storage_locations
from deploy.config.log_space import log_retention
from deploy.config.partial_settings import DescriptionSubset, NamesSubset
from deploy.config.settings import HasRules, LongwatchSettings, SettingKey, names_matching
from deploy.errors import BadSettings
from deploy.logs.setup import LoggingConfig
from deploy.runtime import daemon
from deploy.runtime.daemon import ProcessRole
from deploy.runtime.devices import resolve_devices
from ingest.camera import Camera, DecodeOptions
from ingest.settings import CameraSettings
from storage.log.kafka.client.config import KafkaConfig, Sasl, StaticMember, Tls, to_member_name
from storage.log.retention import DEFAULT_RETENTION, TopicRetention
from storage.settings import KafkaSettings, SaslSettings, StaticMembershipSettings

MIN_STALE_AFTER = timedelta(minutes=5)
"""A shorter gap between samples never dismisses a pending incident."""
HEALTH_THRESHOLD = 0.5
"""Health samples have the score 1 or 0."""
NEVER_STALE = timedelta(days=36500)
FAILURE_STALE_AFTER = timedelta(minutes=20)
"""An incident of a state that nothing clears ends three times this long after its last sample."""


def model_problems(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield what is wrong with the files of the model, as far as that shows without loading."""
    yield from _model_problems(settings, ModelFiles.find)


def shape_problems(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield the same, but for a model that can be reckoned with before it is fetched."""
    yield from _model_problems(settings, ModelShape.find)


def _model_problems(
    settings: LongwatchSettings, find: Callable[[str, str | None], ModelFiles | ModelShape]
) -> Iterator[tuple[SettingKey, str]]:
    try:
        config = find(settings.model.name, settings.model.revision).config
    except ModelUnusable as error:
        yield ("model", "name"), str(error)
    else:
        yield from _compression_problems(settings.memory, config)
        yield from _zone_problems(settings.questions, config)


def _compression_problems(
    memory: MemorySettings, config: VideoXL2Config
) -> Iterator[tuple[SettingKey, str]]:
    tokens = config.tokens_per_group
    if tokens % memory.compression:
        known = ", ".join(str(n) for n in range(1, tokens + 1) if tokens % n == 0)
        message = f"does not divide the {tokens} visual tokens of a group: choose one of {known}"
        yield ("memory", "compression"), message


def _zone_problems(
    questions: Mapping[str, QuestionSettings], config: VideoXL2Config
) -> Iterator[tuple[SettingKey, str]]:
    """Yield the questions about zones where the model was not taught what an outline is."""
    if config.is_trained_on_outlines:
        return
    for name, question in questions.items():
        if question.zone is not None:
            message = "nano was not taught zones: take `zone` out, or choose another model"
            yield ("questions", name, "zone"), message


def choose_camera(settings: LongwatchSettings, name: str | None) -> str:
    """Return the camera whose questions are asked; raises BadSettings when that is unclear."""
    known = ", ".join(settings.cameras)
    if name is None and len(settings.cameras) > 1:
        raise BadSettings(f"there are several cameras: choose one by --camera ({known})")
    if name is not None and name not in settings.cameras:
        raise BadSettings(f"no camera is called {name!r}: choose one of {known}")
    return name or next(iter(settings.cameras))


def build_camera(name: str, settings: CameraSettings) -> Camera:
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
        decode=DecodeOptions(frames=settings.decode.frames, hardware=settings.decode.hardware),
    )


def build_question(
    name: str, settings: QuestionSettings, cameras: Mapping[str, object]
) -> Question:
    """Return a question from its settings, with its zone on each camera that it concerns."""
    asked_cameras = {
        camera: cameras[camera] for camera in settings.cameras or cameras if camera in cameras
    }
    return Question(
        name=name,
        ask=settings.ask,
        cameras=frozenset(settings.cameras),
        every=settings.every,
        look_back=settings.look_back,
        zone=settings.zone,
        zones={
            camera: zone
            for camera, each in asked_cameras.items()
            for zone in (zones_of(each.zones) if isinstance(each, CameraSettings) else ())
            if zone.name == settings.zone
        },
    )


def build_rule(settings: RuleSettings, question: str, every: timedelta) -> Rule:
    """Return a rule from its settings, for a question that is asked `every` so often.

    `below` defaults to `above`. A pending incident is dismissed after three missing answers.
    """
    above = HEALTH_THRESHOLD if settings.above is None else settings.above
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
        stale_after=max(MIN_STALE_AFTER, 3 * every),
        severity=settings.severity,
        notify=tuple(settings.notify),
    )


def build_route_policy(settings: RouteSettings, default: RoutePolicy) -> RoutePolicy:
    """Return the policy of a receiver: what is set, else the default."""
    changes = {name: value for name, value in settings if value is not None}
    if settings.rate_limit == "none":
        changes["rate_limit"] = None
    return replace(default, **changes)


def build_route_policies(settings: LongwatchSettings | NamesSubset) -> NotificationPolicy:
    """Return how all receivers are notified, without what mutes incidents."""
    default = build_route_policy(settings.route, RoutePolicy())
    receiver_routes = {name: each.route for name, each in settings.receivers.items()}
    receivers = {name: build_route_policy(each, default) for name, each in receiver_routes.items()}
    return NotificationPolicy(default=default, receivers=receivers)


def build_notification_policy(settings: LongwatchSettings) -> NotificationPolicy:
    """Return how all receivers are notified."""
    return replace(
        build_route_policies(settings),
        inhibitions=tuple(build_inhibition(each, settings) for each in settings.inhibit),
        maintenance=tuple(settings.maintenance),
        health_rules=frozenset(rule.name for rule in settings.rules if rule.health is not None),
        pagers=frozenset(
            name for name, each in settings.receivers.items() if each.endpoint.is_pager
        ),
    )


def build_inhibition(settings: InhibitSettings, all_: LongwatchSettings) -> Inhibition:
    """Return an inhibition, with the rules of its source."""
    source = settings.source
    rule_names = [
        rule.name
        for rule in all_.rules
        if (rule.name == source.rule if source.rule else rule.health == source.health)
    ]
    target = settings.target.model_dump(exclude_none=True)
    return Inhibition(
        source=frozenset(rule_names),
        target=tuple(Matcher(label=label, op="=", value=value) for label, value in target.items()),
        equal=tuple(settings.equal),
    )


def build_questions(settings: HasRules) -> list[Question]:
    """Return all questions."""
    return [
        build_question(name, each, settings.cameras) for name, each in settings.questions.items()
    ]


def build_rules(settings: HasRules) -> list[Rule]:
    """Return all rules: one for each question that `when` matches.

    A coverage interval is one state throughout, so a gap between health samples means nothing. A
    state that no sample clears is the exception.
    """
    rules = []
    for each in settings.rules:
        if each.health is not None:
            interval = FAILURE_STALE_AFTER if each.health in NEVER_CLEARED else NEVER_STALE
            rules.append(build_rule(each, HEALTH_PREFIX + each.health, interval))
        for name in names_matching(each.when, settings.questions):
            if name not in (each.then, each.without):
                rules.append(build_rule(each, name, settings.questions[name].every))
    return rules


def build_receivers(settings: LongwatchSettings) -> list[Receiver]:
    """Return all receivers."""
    stills = settings.data / EVIDENCE_FOLDER
    return [each.endpoint.build(name, stills) for name, each in settings.receivers.items()]


def build_origin(settings: LongwatchSettings | DescriptionSubset) -> MessageOrigin:
    """Return the origin of all messages."""
    return MessageOrigin(site=settings.site, labels=settings.labels)


def build_describer(settings: LongwatchSettings | DescriptionSubset) -> Describer:
    """Return the describer of incidents."""
    questions = build_questions(settings)
    titles = {name: camera.title for name, camera in settings.cameras.items()}
    return Describer(
        rules=tuple(build_rules(settings)),
        templates={
            rule.name: RuleTemplates(summary=rule.summary or "", description=rule.description or "")
            for rule in settings.rules
        },
        questions={
            each.name: QuestionWording(ask=each.ask, version=each.version) for each in questions
        },
        titles={name: title for name, title in titles.items() if title},
        external_url=settings.external_url or "",
        origin=build_origin(settings),
    )


def build_kafka_config(
    settings: KafkaSettings, site: str = "", retention: Sequence[TopicRetention] = DEFAULT_RETENTION
) -> KafkaConfig:
    """Return where a log on Kafka is, what it keeps, and the site that its events name."""
    tls, sasl, static = settings.tls, settings.sasl, settings.static
    return KafkaConfig(
        bootstrap=tuple(settings.bootstrap),
        prefix=settings.prefix,
        partitions=settings.partitions,
        replication=settings.replication,
        compression=settings.compression,
        timeout=settings.timeout.total_seconds(),
        session=settings.session.total_seconds(),
        static=None if static is None else _build_static_member(static),
        tls=Tls(ca=tls.ca, certificate=tls.certificate, key=tls.key) if tls else None,
        sasl=None if sasl is None else _build_sasl(sasl),
        retention=tuple(retention),
        site=site,
    )


def _build_sasl(settings: SaslSettings) -> Sasl:
    password = settings.password.get_secret_value()
    return Sasl(mechanism=settings.mechanism, user=settings.user, password=password)


def _build_static_member(settings: StaticMembershipSettings) -> StaticMember:
    name = settings.name or to_member_name(socket.gethostname())
    return StaticMember(name=name, session=settings.session.total_seconds())


def analyzer_locations(settings: LongwatchSettings, device: str) -> StorageLocations:
    """Return the places of the analyzer on a device, by which it is called in its group."""
    locations = storage_locations(settings)
    log = locations.log
    if not isinstance(log, KafkaConfig) or log.static is None:
        return locations
    return replace(locations, log=replace(log, static=log.static.for_device(device)))


def storage_secrets(settings: LongwatchSettings) -> list[SecretStr]:
    """Return the passwords of the log and the database, the latter also as part of its url."""
    found = list[SecretStr]()
    if settings.log.kafka and settings.log.kafka.sasl:
        found.append(settings.log.kafka.sasl.password)
    if settings.database is not None:
        found.append(settings.database)
        password = urlsplit(settings.database.get_secret_value()).password
        found += [SecretStr(text) for text in {password, password and unquote(password)} if text]
    return found


def build_roles(settings: LongwatchSettings, level: int = logging.INFO) -> list[ProcessRole]:
    """Return the roles of one machine; a role knows the secrets that it needs, no others."""
    return [
        *analyzer_roles(settings, level),
        alerts_role(settings, level),
        *(camera_role(settings, name, level) for name in settings.cameras),
    ]


def camera_role(settings: LongwatchSettings, name: str, level: int) -> ProcessRole:
    """Return the role that watches one camera."""
    camera = settings.cameras[name]
    return ProcessRole(
        name=f"camera-{name}",
        work=daemon.watch_camera,
        arguments={"camera": build_camera(name, camera), "locations": storage_locations(settings)},
        logging=_logging(level, [camera.url, *storage_secrets(settings)]),
        is_forked=True,
    )


def analyzer_roles(settings: LongwatchSettings, level: int) -> list[ProcessRole]:
    """Return the roles that answer questions: one for each device, which share the cameras."""
    devices = resolve_devices(settings.model.device)
    if len(devices) == 1:
        return [analyzer_role(settings, level, device=devices[0])]
    return [
        analyzer_role(settings, level, name=f"analyzer-{number}", device=device)
        for number, device in enumerate(devices)
    ]


def analyzer_role(
    settings: LongwatchSettings, level: int, *, name: str = "analyzer", device: str | None = None
) -> ProcessRole:
    """Return the role that answers questions on one device."""
    device = device or settings.model.one_device
    return ProcessRole(
        name=name,
        work=daemon.analyze,
        arguments={
            "model": settings.model.name,
            "revision": settings.model.revision,
            "device": device,
            "dtype": settings.model.dtype,
            "plan": plan_of(settings.memory),
            "shapes": window_shapes(settings),
            "questions": build_questions(settings),
            "site": build_site(settings),
            "clock_tolerance": settings.clock_tolerance,
            "locations": analyzer_locations(settings, device),
        },
        logging=_logging(level, storage_secrets(settings)),
    )


def alerts_role(settings: LongwatchSettings, level: int) -> ProcessRole:
    """Return the role that judges and delivers."""
    receivers = build_receivers(settings)
    secrets = [word for receiver in receivers for word in receiver.secret_words()]
    return ProcessRole(
        name="alerts",
        work=daemon.alert,
        arguments={
            "rules": build_rules(settings),
            "receivers": receivers,
            "notification_policy": build_notification_policy(settings),
            "heartbeat": settings.heartbeat,
            "describer": build_describer(settings),
            "cameras": tuple(settings.cameras),
            "retention": settings.retention,
            "log_retention": log_retention(settings.log, settings.data),
            "clock_tolerance": settings.clock_tolerance,
            "locations": storage_locations(settings),
        },
        logging=_logging(level, storage_secrets(settings), *secrets),
    )


def _logging(level: int, secrets: Sequence[SecretStr], *plain: str) -> LoggingConfig:
    found = tuple(secret.get_secret_value() for secret in secrets)
    return LoggingConfig(level=level, secrets=(*found, *plain))
