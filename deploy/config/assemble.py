"""From settings to the plain values that the packages are built of."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from alerts.dispatch.describer import Describer, QuestionWording, RuleTemplates
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.dispatch.messages import MessageOrigin
from alerts.dispatch.muting import Inhibition, Matcher
from alerts.hours import Hours
from alerts.notify.receivers import Receiver
from alerts.rules.health import HEALTH_PREFIX, NEVER_CLEARED
from alerts.rules.rule import Rule
from alerts.settings import InhibitSettings, RouteSettings, RuleSettings
from analyzer.questions.question import Question
from analyzer.settings import QuestionSettings
from analyzer.zones import zones_of
from deploy.config.data_dir import EVIDENCE_FOLDER
from deploy.config.partial_settings import DescriptionSubset, NamesSubset
from deploy.config.settings import HasRules, LongwatchSettings, names_matching, unknown_name
from deploy.errors import BadSettings
from ingest.camera import Camera
from ingest.settings import CameraSettings

MIN_STALE_AFTER = timedelta(minutes=5)
"""A shorter gap between samples never dismisses a pending incident."""
HEALTH_THRESHOLD = 0.5
"""Health samples have the score 1 or 0."""
NEVER_STALE = timedelta(days=36500)
FAILURE_STALE_AFTER = timedelta(minutes=20)
"""An incident of a state that nothing clears ends three times this long after its last sample."""


def choose_camera(settings: LongwatchSettings, name: str | None) -> str:
    """Return the camera that an option names, or the only one; raise BadSettings."""
    if name is None and len(settings.cameras) > 1:
        known = ", ".join(settings.cameras)
        raise BadSettings(f"there are several cameras: choose one by --camera ({known})")
    if name is not None and name not in settings.cameras:
        raise BadSettings(unknown_name("camera", name, settings.cameras))
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
        decode=settings.decode,
    )


def build_question(
    name: str, settings: QuestionSettings, cameras: Mapping[str, object]
) -> Question:
    """Return a question from its settings, with its zone on each camera that it concerns."""
    zones = {
        camera: zone
        for camera, each in cameras.items()
        if isinstance(each, CameraSettings) and camera in (settings.cameras or cameras)
        for zone in zones_of(each.zones)
        if zone.name == settings.zone
    }
    return Question(name=name, zones=zones, **dict(settings))


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
