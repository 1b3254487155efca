"""The judge: what samples make of incidents by all rules, as changes to publish."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import structlog

from alerts.dispatch.grouping import NotificationPolicy
from alerts.incidents.changes import IncidentChange, publish
from alerts.rules.health import HEALTH_PREFIX
from alerts.rules.lifecycle import change_kind
from alerts.rules.replay import next_revisions
from alerts.rules.rule import Rule, RuleSample, is_about
from storage.db.transaction import Transaction
from storage.log.clock_guard import CurrentTime
from storage.records.records import Incident

logger = structlog.get_logger()


class Judge:
    """All rules, who is notified, and the cameras in the settings; none stands for any."""

    def __init__(
        self, rules: Sequence[Rule], policy: NotificationPolicy, cameras: Collection[str]
    ) -> None:
        self._rules = rules
        self._policy = policy
        self._cameras = frozenset(cameras)
        self._by_version = {(rule.name, rule.version): rule for rule in rules}

    def find_rule(self, incident: Incident) -> Rule | None:
        """Return the very rule that made an incident, if it still is one."""
        return self._by_version.get((incident.rule, incident.rule_version))

    def is_judged(self, incident: Incident) -> bool:
        """Return whether a rule still looks at the camera of an incident."""
        rule = self.find_rule(incident)
        return (
            rule is not None
            and rule.has_camera(incident.camera)
            and self._is_configured(incident.camera)
        )

    def judge(
        self,
        samples: Iterable[RuleSample],
        latest: dict[tuple[str, str, str], Incident],
        present: CurrentTime,
    ) -> Iterator[IncidentChange]:
        """Yield what samples change, in order; `latest` are the incidents before them."""
        for sample in samples:
            for rule in self._rules:
                if not (is_about(rule, sample) and self._is_configured(sample.camera)):
                    continue
                key = (sample.camera, rule.name, rule.version)
                before = latest.get(key)
                for after in next_revisions(rule, before, sample, present):
                    is_next = before is not None and before.id == after.id
                    by_finding = not sample.question.startswith(HEALTH_PREFIX)
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
        """Return a change by a rule, with those whom it notifies."""
        groups = self._policy.group_labels(after, rule.notify)
        return IncidentChange(
            before=before, after=after, who=who, groups=groups, needs_stills=needs_stills
        )

    def _is_configured(self, camera: str) -> bool:
        """Return whether a camera is in the settings, or, with a `/`, stands for something else."""
        return not self._cameras or camera in self._cameras or "/" in camera


def publish_and_log(transaction: Transaction, changes: Sequence[IncidentChange]) -> None:
    """Publish changes, and log what is news."""
    publish(transaction, changes)
    for each in changes:
        if (kind := change_kind(each.before, each.after)) is not None:
            camera, rule, id = each.after.camera, each.after.rule, str(each.after.id)
            logger.info(f"incident {kind}", camera=camera, rule=rule, id=id)
