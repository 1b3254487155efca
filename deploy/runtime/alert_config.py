"""The configuration of the alert role; its packages are imported when the role runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from deploy.config.data_dir import StorageLocations
from deploy.runtime.process import ProcessRole

if TYPE_CHECKING:
    from alerts.dispatch.describer import Describer
    from alerts.dispatch.grouping import NotificationPolicy
    from alerts.dispatch.heartbeat import Heartbeat
    from alerts.evidence.retention import RetentionPeriods
    from alerts.notify.receivers import Receiver
    from alerts.rules.rule import Rule
    from storage.log.retention import TopicRetention


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AlertRoleConfig(ProcessRole):
    """What the alert role is configured with."""

    rules: Sequence["Rule"]
    receivers: Sequence["Receiver"]
    notification_policy: "NotificationPolicy"
    heartbeat: "Heartbeat | None"
    describer: "Describer"
    cameras: Sequence[str]
    retention: "RetentionPeriods"
    log_retention: Sequence["TopicRetention"]
    clock_tolerance: timedelta
    locations: StorageLocations
