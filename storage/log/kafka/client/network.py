"""Clients of kafka-python that leave nothing behind where no broker answers."""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka import TopicPartition
from kafka.errors import KafkaError, ThrottlingQuotaExceededError
from kafka.net.compat import KafkaNetClient

from storage.log.kafka.client.config import KafkaConfig, client_options
from storage.log.partitions import partition_number, topic_of

Client = TypeVar("Client")
_PAUSE_MS = 10.0


class _ThrottledNetworkClient(KafkaNetClient):  # type: ignore[misc]
    """A network client whose producer rests while a connection is paused, by a quota say.

    That of kafka-python (3.0.12) looks at it again at once, and takes a whole core.
    """

    def connection_delay(self, node_id: int) -> float:
        """Return the milliseconds after which to look at a connection again."""
        delay = float(super().connection_delay(node_id))
        conn = self._manager._conns.get(node_id)
        return max(delay, _PAUSE_MS) if conn is not None and conn.paused else delay


def create_client(
    client_class: Callable[..., Client], config: KafkaConfig, **options: object
) -> Client:
    """Return a client of the brokers of a place; raises what kafka-python raises.

    Its constructors (3.0.12) start a thread and open sockets before they connect, and forget
    both when they fail: a daemon that tries again would run out of file descriptors.
    """
    networks: list[KafkaNetClient] = []

    def network(**configs: Any) -> KafkaNetClient:
        networks.append(_ThrottledNetworkClient(**configs))
        return networks[-1]

    try:
        return client_class(**client_options(config), kafka_client=network, **options)
    except BaseException:
        for each in networks:
            each.close()
        raise


def quota_error(client: Any) -> KafkaError | None:
    """Return the reason of a client that a broker's quota makes wait just now, to chain as a cause.

    The brokers say so in every response (KIP-219); kafka-python (3.0.12) waits without a word.
    """
    network: KafkaNetClient = client._client
    is_slowed = any(network.throttle_delay(node) for node in list(network._manager._conns))
    return ThrottlingQuotaExceededError() if is_slowed else None


def to_topic_partition(config: KafkaConfig, partition: str) -> TopicPartition:
    """Return the Kafka partition of one of ours, like `findings-3`."""
    return TopicPartition(config.prefix + topic_of(partition), partition_number(partition))
