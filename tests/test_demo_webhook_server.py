"""The demo's receiver believes what is signed, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from standardwebhooks import Webhook as Reference

from alerts.notify.outcomes import Delivered, Retry
from deploy.demo.webhook_server import SIGNATURE_TOLERANCE, WebhookServer, is_signed
from kit.alerts.webhook_receiver import a_webhook

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
BODY = b'{"type":"incident.opened"}'


def test_signed_webhook_is_taken_and_a_forged_one_is_not() -> None:
    receiver = WebhookServer(SECRET)
    with receiver.running():
        good = a_webhook(receiver.url, "here", secret=SECRET)
        forged = replace(good, secrets=("whsec_" + "B" * 32,))
        ids = [uuid4(), uuid4()]
        now = datetime.now(UTC)
        assert isinstance(good.send(ids[0], BODY, now), Delivered)
        again = forged.send(ids[1], BODY, now)
        assert isinstance(again, Retry)
        assert again.reason == "status 401"
    taken, refused = receiver.receipts.get_nowait(), receiver.receipts.get_nowait()
    assert (taken.id, taken.kind, taken.is_verified) == (str(ids[0]), "incident.opened", True)
    assert (refused.id, refused.is_verified) == (str(ids[1]), False)


def signed(at: datetime, body: bytes = BODY) -> dict[str, str]:
    """Return the headers that the reference library makes."""
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Reference(SECRET).sign("msg_1", at, body.decode()),
    }


def test_signature_of_the_reference_library_is_believed_while_it_is_fresh() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    assert is_signed(SECRET, signed(now), BODY, now)
    rotating = signed(now) | {"webhook-signature": f"v1,AAAA {signed(now)['webhook-signature']}"}
    assert is_signed(SECRET, rotating, BODY, now)
    assert not is_signed(SECRET, signed(now), BODY + b" ", now)
    assert not is_signed(SECRET, signed(now) | {"webhook-id": "msg_2"}, BODY, now)
    assert not is_signed(
        SECRET, signed(now), BODY, now + SIGNATURE_TOLERANCE + timedelta(seconds=1)
    )
    assert not is_signed(SECRET, {}, BODY, now)
