"""Create clients of kafka-python that clean up if no broker answers."""

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
    """A network client whose producer waits while a connection is paused, by a quota say.

    That of kafka-python (3.0.12) checks again at once, and occupies a whole core.
    """

    def connection_delay(self, node_id: int) -> float:
        """Return the milliseconds until the next check of a connection."""
        delay = float(super().connection_delay(node_id))
        conn = self._manager._conns.get(node_id)
        return max(delay, _PAUSE_MS) if conn is not None and conn.paused else delay


def create_client(
    client_class: Callable[..., Client], config: KafkaConfig, **options: object
) -> Client:
    """Return a connected client; raises what kafka-python raises.

    Its constructors (3.0.12) start a thread and open sockets before they connect, and leak both
    when they fail: a daemon that retries would run out of file descriptors.
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
    """Return an error, to chain as a cause, if a broker's quota throttles the client now.

    The brokers report it in every response (KIP-219); kafka-python (3.0.12) waits silently.
    """
    network: KafkaNetClient = client._client
    is_slowed = any(network.throttle_delay(node) for node in list(network._manager._conns))
    return ThrottlingQuotaExceededError() if is_slowed else None


def to_topic_partition(config: KafkaConfig, partition: str) -> TopicPartition:
    """Return the Kafka partition of one of ours, like `findings-3`."""
    return TopicPartition(config.prefix + topic_of(partition), partition_number(partition))
