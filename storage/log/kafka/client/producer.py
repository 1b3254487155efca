"""A producer of kafka-python that reports why a message was not accepted."""

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from storage.log.kafka.client.config import MESSAGE_OVERHEAD, KafkaConfig
from storage.log.kafka.client.network import create_client, quota_error

_BATCH_BYTES = 2**18


class ExplainingProducer(KafkaProducer):  # type: ignore[misc]
    """Keep the last error of the brokers: kafka-python (3.0.12) retries and drops it."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs)
        self._is_abandoned = False
        self._errors = _LastError(self._sender._dispatch_error)
        self._sender._dispatch_error = self._errors.record

    def last_error(self, since: float) -> KafkaError | None:
        """Return the last error of any batch since `since`, in monotonic seconds.

        Without one, return an error if a quota of the brokers throttles it now.
        """
        if self._errors.at >= since:
            return self._errors.error
        return quota_error(self._sender)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all is sent; not once abandoned: `close` would end with an error."""
        if not self._is_abandoned:
            super().flush(timeout)

    def abandon(self) -> None:
        """Close at once, and discard the unsent batches."""
        self._is_abandoned = True
        self.close(timeout=0)


class _LastError:
    """The last error; it refers to no producer, so that the sender thread keeps none alive."""

    def __init__(self, dispatch: Callable[..., None]) -> None:
        self._dispatch = dispatch
        self.error: KafkaError | None = None
        self.at = 0.0

    def record(self, batch: Any, error: Exception, *rest: Any, **options: Any) -> None:
        if isinstance(error, KafkaError) and not isinstance(error, KafkaTimeoutError):
            self.error, self.at = error, time.monotonic()
        self._dispatch(batch, error, *rest, **options)


def create_producer(config: KafkaConfig, compression: str | None) -> ExplainingProducer:
    """Return a producer that waits for all replicas, and writes each batch once."""
    return create_client(
        ExplainingProducer,
        config,
        acks="all",
        enable_idempotence=True,
        # A broker accepts a request sent after a throttled one even once we abandoned it.
        max_in_flight_requests_per_connection=1,
        compression_type=compression,
        max_request_size=config.largest + MESSAGE_OVERHEAD,
        batch_size=_BATCH_BYTES,
        max_block_ms=int(config.timeout * 1000),
        delivery_timeout_ms=int(config.timeout * 1000),
        allow_auto_create_topics=False,
    )
