from datetime import timedelta
from typing import Any

import pytest
from alerts_fixtures import SECRET
from pydantic import ValidationError

from alerts.settings import ReceiverSettings, RuleSettings

RULE = {"name": "bag-left", "when": "unattended_bag", "above": 0.8}
WEBHOOK = {"url": "https://soc.example/hook", "secret": SECRET}


def test_rule_as_the_design_writes_it() -> None:
    rule = RuleSettings.model_validate(
        RULE | {"below": 0.5, "for": "2m", "keep_firing_for": "1m", "severity": "high",
                "notify": ["soc"], "cameras": ["dock"]}
    )  # fmt: skip
    assert (rule.for_, rule.keep_firing_for) == (timedelta(minutes=2), timedelta(minutes=1))


def test_rule_that_says_little_opens_at_once_and_closes_where_it_opens() -> None:
    rule = RuleSettings.model_validate(RULE)
    assert (rule.for_, rule.below, rule.severity, rule.notify) == (timedelta(), None, "medium", [])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"above": 1.5}, "less than or equal to 1"),
        ({"above": float("nan")}, "less than or equal to 1"),
        ({"below": 0.9}, "below must not be greater than above"),
        ({"for": 120}, "write a duration as"),
        ({"for": "2 minutes"}, "write a duration as"),
        ({"for_": "2m"}, "Extra inputs"),
        ({"severity": "bad"}, "'low', 'medium', 'high' or 'critical'"),
        ({"active": "Mon-Sun"}, "Extra inputs"),
        ({"name": "a name"}, "match pattern"),
        ({"name": "n" * 65}, "match pattern"),
    ],
)
def test_wrong_rule_is_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        RuleSettings.model_validate(RULE | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://soc.example/canary"},
        {"url": "canary"},
        {"secret": "canary"},
        {"secret": ["canary"]},
        {"canary": "canary", "url": 5},
    ],
)
def test_wrong_receiver_is_refused_without_showing_what_it_held(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        ReceiverSettings.model_validate({"webhook": WEBHOOK | wrong})
    assert "canary" not in str(refused.value).replace("webhook.canary", "")


def test_receiver_shows_neither_url_nor_secret() -> None:
    receiver = ReceiverSettings.model_validate({"webhook": WEBHOOK})
    assert "soc.example" not in repr(receiver)
    assert SECRET not in repr(receiver)
