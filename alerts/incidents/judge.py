"""The judge: applies all rules to samples, and publishes the changes of incidents."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import structlog

from alerts.dispatch.grouping import NotificationPolicy
from alerts.incidents.changes import IncidentChange, publish
from alerts.rules.health import is_health
from alerts.rules.lifecycle import change_kind
from alerts.rules.replay import next_revisions
from alerts.rules.rule import Rule, RuleSample, is_about
from storage.clock import CurrentTime
from storage.db.transaction import Transaction
from storage.records.records import Incident

logger = structlog.get_logger()


class Judge:
    """Apply all rules; incidents of cameras outside the settings are left alone.

    No `cameras` means all.
    """

    def __init__(
        self, rules: Sequence[Rule], policy: NotificationPolicy, cameras: Collection[str]
    ) -> None:
        self._rules = rules
        self._policy = policy
        self._cameras = frozenset(cameras)
        self._by_version = {(rule.name, rule.version): rule for rule in rules}

    def find_rule(self, incident: Incident) -> Rule | None:
        """Return the rule version that made an incident, if it is still in the settings."""
        return self._by_version.get((incident.rule, incident.rule_version))

    def is_judged(self, incident: Incident) -> bool:
        """Return whether a rule still judges the camera of an incident."""
        rule = self.find_rule(incident)
        return (
            rule is not None
            and rule.has_camera(incident.camera)
            and self._is_configured(incident.camera)
        )

    def publish(
        self, transaction: Transaction, samples: Sequence[RuleSample], present: CurrentTime
    ) -> None:
        """Judge samples in order, and publish what they change."""
        latest = transaction.latest_incidents({each.camera for each in samples}, present)
        publish_and_log(transaction, list(self.judge(samples, latest, present)))

    def judge(
        self,
        samples: Iterable[RuleSample],
        latest: dict[tuple[str, str, str], Incident],
        present: CurrentTime,
    ) -> Iterator[IncidentChange]:
        """Yield the changes that samples cause, in order; `latest` is updated."""
        for sample in samples:
            for rule in self._rules:
                if not (is_about(rule, sample) and self._is_configured(sample.camera)):
                    continue
                key = (sample.camera, rule.name, rule.version)
                before = latest.get(key)
                for after in next_revisions(rule, before, sample, present):
                    is_next = before is not None and before.id == after.id
                    by_finding = not is_health(sample.question)
                    yield self.build_change(
                        before if is_next else None, after, rule, needs_stills=by_finding
                    )
                    before = latest[key] = after

    def build_change(
        self,
        before: Incident | None,
        after: Incident,
        rule: Rule,
        *,
        who: str = "rule",
        needs_stills: bool = False,
    ) -> IncidentChange:
        """Return a change of a rule's incident, with the receivers to notify."""
        groups = self._policy.group_labels(after, rule.notify)
        return IncidentChange(
            before=before, after=after, who=who, groups=groups, needs_stills=needs_stills
        )

    def _is_configured(self, camera: str) -> bool:
        """Return whether a camera is in the settings, or is a role, reader or receiver (`a/b`)."""
        return not self._cameras or camera in self._cameras or "/" in camera


def publish_and_log(transaction: Transaction, changes: Sequence[IncidentChange]) -> None:
    """Publish changes, and log those that receivers are notified of."""
    publish(transaction, changes)
    for each in changes:
        if (kind := change_kind(each.before, each.after)) is not None:
            camera, rule, id = each.after.camera, each.after.rule, str(each.after.id)
            logger.info(f"incident {kind}", camera=camera, rule=rule, id=id)
