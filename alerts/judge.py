"""The judge: what samples make of incidents by all rules, as changes to publish."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import structlog

from alerts.health import PREFIX
from alerts.publish import Change, publish
from alerts.routing import Routing, news_of
from alerts.rules import Rule, Sample, changes, looks_at
from storage.instants import Present
from storage.ledger import Ledger
from storage.records import Incident

_say = structlog.get_logger("alerts.worker")


class Judge:
    """All rules, who is notified, and the cameras in the settings; none stands for any."""

    def __init__(self, rules: Sequence[Rule], routing: Routing, cameras: Collection[str]) -> None:
        self._rules = rules
        self._routing = routing
        self._cameras = frozenset(cameras)
        self._by_version = {(rule.name, rule.version): rule for rule in rules}

    def rule_of(self, incident: Incident) -> Rule | None:
        """Return the very rule that made an incident, if it still is one."""
        return self._by_version.get((incident.rule, incident.rule_version))

    def is_judged(self, incident: Incident) -> bool:
        """Return whether a rule still looks at the camera of an incident."""
        rule = self.rule_of(incident)
        return rule is not None and rule.watches(incident.camera) and self._has(incident.camera)

    def judge(
        self,
        samples: Iterable[Sample],
        latest: dict[tuple[str, str, str], Incident],
        present: Present,
    ) -> Iterator[Change]:
        """Yield what samples change, in order; `latest` are the incidents before them."""
        for sample in samples:
            for rule in self._rules:
                if not (looks_at(rule, sample) and self._has(sample.camera)):
                    continue
                place = (sample.camera, rule.name, rule.version)
                before = latest.get(place)
                for after in changes(rule, before, sample, present):
                    is_next = before is not None and before.id == after.id
                    by_finding = not sample.question.startswith(PREFIX)
                    yield self.change(
                        before if is_next else None, after, rule, needs_stills=by_finding
                    )
                    before = latest[place] = after

    def change(
        self,
        before: Incident | None,
        after: Incident,
        rule: Rule,
        *,
        who: str = "rule",
        needs_stills: bool = False,
    ) -> Change:
        """Return a change by a rule, with those whom it notifies."""
        groups = self._routing.groups_of(after, rule.notify)
        return Change(before=before, after=after, who=who, groups=groups, needs_stills=needs_stills)

    def _has(self, camera: str) -> bool:
        """Return whether a camera is in the settings, or, with a `/`, stands for something else."""
        return not self._cameras or camera in self._cameras or "/" in camera


def keep(ledger: Ledger, made: Sequence[Change]) -> None:
    """Publish changes, and log what is news."""
    publish(ledger, made)
    for each in made:
        if (news := news_of(each.before, each.after)) is not None:
            camera, rule, id = each.after.camera, each.after.rule, str(each.after.id)
            _say.info(f"incident {news}", camera=camera, rule=rule, id=id)
