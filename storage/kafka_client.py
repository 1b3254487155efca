"""Clients of kafka-python that leave nothing behind where no broker answers."""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka.errors import KafkaError, ThrottlingQuotaExceededError
from kafka.net.compat import KafkaNetClient

from storage.kafka_place import KafkaPlace, client_options

Client = TypeVar("Client")


def connected(kind: Callable[..., Client], place: KafkaPlace, **options: object) -> Client:
    """Return a client of the brokers of a place; raises what kafka-python raises.

    Its constructors (3.0.12) start a thread and open sockets before they connect, and forget
    both when they fail: a daemon that tries again would run out of file descriptors.
    """
    made: list[KafkaNetClient] = []

    def network(**configs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**configs))
        return made[-1]

    try:
        return kind(**client_options(place), kafka_client=network, **options)
    except BaseException:
        for each in made:
            each.close()
        raise


def slowed_by_quota(client: Any) -> KafkaError | None:
    """Return the reason of a client that a broker's quota makes wait just now, to chain as a cause.

    The brokers say so in every response (KIP-219); kafka-python (3.0.12) waits without a word.
    """
    network: KafkaNetClient = client._client
    is_slowed = any(network.throttle_delay(node) for node in list(network._manager._conns))
    return ThrottlingQuotaExceededError() if is_slowed else None
