from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from alerts.settings import ReceiverSettings, RuleSettings
from kit.alerts.webhook_receiver import SECRET

RULE = {"name": "bag-left", "when": "unattended_bag", "above": 0.8}
WEBHOOK = {"url": "https://soc.example/hook", "secret": SECRET}


def test_rule_as_the_design_writes_it() -> None:
    rule = RuleSettings.model_validate(
        RULE | {"below": 0.5, "for": "2m", "keep_firing_for": "1m", "severity": "high",
                "notify": ["soc"], "cameras": ["dock"]}
    )  # fmt: skip
    assert (rule.for_, rule.keep_firing_for) == (timedelta(minutes=2), timedelta(minutes=1))


def test_rule_in_all_its_words() -> None:
    hours = ["Mon-Fri 18:00-06:00 Europe/Berlin", "Sat-Sun 00:00-24:00 Europe/Berlin"]
    rule = RuleSettings.model_validate(
        RULE | {"cameras": ["dock-*", "yard"], "quiet": "10m", "active": hours,
                "without": "pickup", "within": "40m"}
    )  # fmt: skip
    assert [each.text for each in rule.active] == [(hours[0],), (hours[1],)]
    assert (rule.quiet, rule.within) == (timedelta(minutes=10), timedelta(minutes=40))
    health = {"name": "down", "health": "camera_down", "for": "1m", "active": hours[0]}
    assert RuleSettings.model_validate(health).above is None


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
        ({"active": "Mon-Sun"}, "write it as Mon-Fri 18:00-06:00 Europe/Berlin"),
        ({"active": ["18:00-06:00 UTC", 5]}, "write it as Mon-Fri 18:00-06:00 Europe/Berlin"),
        ({"active": "18:00-06:00 Europe/Berln"}, "did you mean Europe/Berlin"),
        ({"above": 0}, "it would fire for ever"),
        ({"below": 0}, "it would never close"),
        ({"above": None}, "missing: add it"),
        ({"when": None}, "write either `when: QUESTION` or `health: STATE`"),
        ({"health": "frozen"}, "write either `when: QUESTION` or `health: STATE`"),
        ({"when": None, "health": "frozen"}, "it has no score: drop it"),
        ({"when": None, "above": None, "health": "frozen", "below": 0.5}, "it has no score"),
        ({"when": None, "above": None, "health": "dusty"}, "Input should be 'camera_down'"),
        ({"when": None, "above": None, "health": "frozen", "then": "x"}, "goes with `when:"),
        ({"then": "pickup"}, "missing: add it, as 40m"),
        ({"then": "pickup", "within": "0s"}, "a gap of nothing"),
        ({"within": "40m"}, "goes with then or without"),
        ({"then": "a", "without": "b", "within": "40m"}, "either then or without"),
        ({"then": "unattended_bag", "within": "40m"}, "names the question of `when`"),
        ({"then": "a", "within": "40m", "for": "1m"}, "within takes its place"),
        ({"without": "a", "within": "40m", "keep_firing_for": "1m"}, "ends it when it comes"),
        ({"cameras": ["[a-z]"]}, "match pattern"),
        ({"then": "a*", "within": "40m"}, "match pattern"),
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
