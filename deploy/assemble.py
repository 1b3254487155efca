"""From settings to what the packages are built of: plain values, and the roles to run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from pydantic import SecretStr

from alerts.rules import Rule
from alerts.settings import ReceiverSettings, RuleSettings
from alerts.webhook import Webhook
from analyzer.errors import ModelUnusable
from analyzer.plan import MemoryPlan, WindowShape
from analyzer.questions import Question
from analyzer.settings import MemorySettings, QuestionSettings
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.outline import Outline
from analyzer.videoxl2.snapshot import Snapshot
from deploy import daemon
from deploy.daemon import Role
from deploy.errors import BadSettings
from deploy.logs import Logging
from deploy.settings import Key, Settings
from ingest.settings import CameraSettings
from ingest.source import Camera

SILENCE = timedelta(minutes=5)
"""A shorter silence never dismisses a pending incident."""


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


def _compression_problems(
    memory: MemorySettings, config: VideoXL2Config
) -> Iterator[tuple[Key, str]]:
    tokens = config.tokens_per_group
    if tokens % memory.compression:
        known = ", ".join(str(n) for n in range(1, tokens + 1) if tokens % n == 0)
        told = f"does not divide the {tokens} visual tokens of a group: choose one of {known}"
        yield ("memory", "compression"), told


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
    )


def shape_of(settings: CameraSettings) -> WindowShape:
    """Return how a camera's windows are cut."""
    return WindowShape(stills=settings.stills_per_window, length=settings.window)


def shapes_of(settings: Settings) -> tuple[WindowShape, ...]:
    """Return how the windows of all cameras are cut, each way once."""
    return tuple(dict.fromkeys(map(shape_of, settings.cameras.values())))


def plan_of(settings: MemorySettings) -> MemoryPlan:
    """Return what a camera's memory holds."""
    return MemoryPlan(
        horizon=settings.horizon,
        focus_horizon=settings.focus_horizon or settings.horizon,
        recent=settings.recent,
        focus=settings.focus,
        compression=settings.compression,
        corrected=settings.mass == "corrected",
        int8=settings.int8,
        epoch=settings.epoch,
    )


def question_of(name: str, settings: QuestionSettings) -> Question:
    """Return a question from its settings."""
    return Question(
        name=name,
        ask=settings.ask,
        cameras=frozenset(settings.cameras),
        every=settings.every,
        look_back=settings.look_back,
    )


def rule_of(settings: RuleSettings, every: timedelta) -> Rule:
    """Return a rule from its settings, about a question asked so often.

    Without `below` it closes where it opens. Three answers in a row have to be missing before
    a pending incident counts as unheard of.
    """
    return Rule(
        name=settings.name,
        question=settings.when,
        above=settings.above,
        below=settings.above if settings.below is None else settings.below,
        cameras=tuple(settings.cameras),
        for_=settings.for_,
        keep_firing_for=settings.keep_firing_for,
        stale_after=max(SILENCE, 3 * every),
        severity=settings.severity,
        notify=tuple(settings.notify),
    )


def webhook_of(name: str, settings: ReceiverSettings) -> Webhook:
    """Return a receiver's webhook from its settings."""
    return Webhook(
        name=name,
        url=settings.webhook.url.get_secret_value(),
        secret=settings.webhook.secret.get_secret_value(),
        allow_private=settings.webhook.allow_private,
    )


def questions_of(settings: Settings) -> list[Question]:
    """Return all questions."""
    return [question_of(name, each) for name, each in settings.questions.items()]


def rules_of(settings: Settings) -> list[Rule]:
    """Return all rules."""
    return [rule_of(rule, settings.questions[rule.when].every) for rule in settings.rules]


def roles_of(settings: Settings, level: int = logging.INFO) -> list[Role]:
    """Return the roles of one machine; a role knows the secrets that it needs, no others."""
    return [
        analyzer_role(settings, level),
        alerts_role(settings, level),
        *(camera_role(settings, name, level) for name in settings.cameras),
    ]


def camera_role(settings: Settings, name: str, level: int) -> Role:
    """Return the role that watches one camera."""
    camera = settings.cameras[name]
    return Role(
        name=f"camera-{name}",
        work=daemon.watch_camera,
        arguments={"camera": camera_of(name, camera), "data": settings.data},
        logging=_logging(level, [camera.url]),
    )


def analyzer_role(settings: Settings, level: int) -> Role:
    """Return the role that answers questions."""
    return Role(
        name="analyzer",
        work=daemon.analyze,
        arguments={
            "model": settings.model.name,
            "revision": settings.model.revision,
            "device": settings.model.device,
            "dtype": settings.model.dtype,
            "plan": plan_of(settings.memory),
            "shapes": shapes_of(settings),
            "questions": questions_of(settings),
            "data": settings.data,
        },
        logging=_logging(level, []),
    )


def alerts_role(settings: Settings, level: int) -> Role:
    """Return the role that judges and delivers."""
    webhooks = [each.webhook for each in settings.receivers.values()]
    secrets = [secret for webhook in webhooks for secret in (webhook.url, webhook.secret)]
    return Role(
        name="alerts",
        work=daemon.alert,
        arguments={
            "rules": rules_of(settings),
            "receivers": [webhook_of(name, each) for name, each in settings.receivers.items()],
            "data": settings.data,
        },
        logging=_logging(level, secrets),
    )


def _logging(level: int, secrets: Sequence[SecretStr]) -> Logging:
    return Logging(level=level, secrets=tuple(secret.get_secret_value() for secret in secrets))
