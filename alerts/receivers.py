"""Who is told of incidents, and how each kind of receiver is told."""

from datetime import datetime
from typing import assert_never
from uuid import UUID

from alerts import apprise, pagerduty, webhook
from alerts.apprise import Apprise
from alerts.outcomes import Outcome
from alerts.pagerduty import PagerDuty
from alerts.webhook import Webhook

Receiver = Webhook | PagerDuty | Apprise


def send(receiver: Receiver, delivery_id: UUID, body: bytes, now: datetime) -> Outcome:
    """Send a delivery and say what came of it; never raises for what a receiver does."""
    match receiver:
        case Webhook():
            return webhook.post(receiver, delivery_id, body, now)
        case PagerDuty():
            return pagerduty.send(receiver, body, now)
        case Apprise():
            return apprise.send(receiver, body)
        case _:
            assert_never(receiver)
