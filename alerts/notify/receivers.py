"""Who is told of incidents, and how each kind of receiver is told."""

from datetime import datetime
from typing import assert_never
from uuid import UUID

from alerts.notify import apprise, pagerduty, webhook
from alerts.notify.apprise import AppriseReceiver
from alerts.notify.outcomes import DeliveryOutcome
from alerts.notify.pagerduty import PagerDuty
from alerts.notify.webhook import Webhook

Receiver = Webhook | PagerDuty | AppriseReceiver


def send(receiver: Receiver, delivery_id: UUID, body: bytes, now: datetime) -> DeliveryOutcome:
    """Send a delivery and say what came of it; never raises for what a receiver does."""
    match receiver:
        case Webhook():
            return webhook.post(receiver, delivery_id, body, now)
        case PagerDuty():
            return pagerduty.send(receiver, body, now)
        case AppriseReceiver():
            return apprise.send(receiver, body)
        case _:
            assert_never(receiver)
