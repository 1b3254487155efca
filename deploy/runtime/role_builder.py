"""Build the roles of a longwatch from its settings; a role knows only the secrets that it needs."""

import logging
from collections.abc import Sequence

from pydantic import SecretStr

from deploy.config.assemble import (
    build_camera,
    build_describer,
    build_notification_policy,
    build_questions,
    build_receivers,
    build_rules,
)
from deploy.config.log_space import log_retention
from deploy.config.memory_demand import build_memory_demand
from deploy.config.settings import LongwatchSettings
from deploy.config.storage_locations import analyzer_locations, storage_locations, storage_secrets
from deploy.logs.setup import LoggingConfig
from deploy.runtime.devices import resolve_devices
from deploy.runtime.process import ProcessRole
from deploy.runtime.roles import AlertRole, AnalyzeRole, IngestRole


def build_roles(settings: LongwatchSettings, level: int = logging.INFO) -> list[ProcessRole]:
    """Return the roles of one machine."""
    return [
        *build_analyze_roles(settings, level),
        build_alert_role(settings, level),
        *(build_ingest_role(settings, name, level) for name in settings.cameras),
    ]


def build_ingest_role(
    settings: LongwatchSettings, camera: str, level: int = logging.INFO
) -> IngestRole:
    """Return the role that watches one camera."""
    return IngestRole(
        name=f"camera-{camera}",
        camera=build_camera(camera, settings.cameras[camera]),
        locations=storage_locations(settings),
        logging=_logging(level, [settings.cameras[camera].url, *storage_secrets(settings)]),
    )


def build_analyze_roles(
    settings: LongwatchSettings, level: int = logging.INFO
) -> list[AnalyzeRole]:
    """Return one role for each device; they share the cameras."""
    devices = resolve_devices(settings.model.device)
    if len(devices) == 1:
        return [build_analyze_role(settings, level, device=devices[0])]
    return [
        build_analyze_role(settings, level, name=f"analyzer-{number}", device=device)
        for number, device in enumerate(devices)
    ]


def build_analyze_role(
    settings: LongwatchSettings,
    level: int = logging.INFO,
    *,
    name: str = "analyzer",
    device: str | None = None,
) -> AnalyzeRole:
    """Return the role that answers questions on one device."""
    device = device or settings.model.one_device
    return AnalyzeRole(
        name=name,
        device=device,
        demand=build_memory_demand(settings),
        questions=build_questions(settings),
        clock_tolerance=settings.clock_tolerance,
        locations=analyzer_locations(settings, device),
        logging=_logging(level, storage_secrets(settings)),
    )


def build_alert_role(settings: LongwatchSettings, level: int = logging.INFO) -> AlertRole:
    """Return the role that judges and delivers."""
    receivers = build_receivers(settings)
    secrets = [word for receiver in receivers for word in receiver.secret_words()]
    return AlertRole(
        name="alerts",
        rules=build_rules(settings),
        receivers=receivers,
        notification_policy=build_notification_policy(settings),
        heartbeat=settings.heartbeat,
        describer=build_describer(settings),
        cameras=tuple(settings.cameras),
        retention=settings.retention,
        log_retention=log_retention(settings.log, settings.data),
        clock_tolerance=settings.clock_tolerance,
        locations=storage_locations(settings),
        logging=_logging(level, storage_secrets(settings), *secrets),
    )


def _logging(level: int, secrets: Sequence[SecretStr], *plain: str) -> LoggingConfig:
    found = tuple(secret.get_secret_value() for secret in secrets)
    return LoggingConfig(level=level, secrets=(*found, *plain))
