"""Clients that find no broker leave no thread behind."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from kit.ingest.fixtures import free_port
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import create_client


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_no_thread_stays_where_no_broker_answers(kind: Callable[..., Any]) -> None:
    kafka_config = KafkaConfig(bootstrap=(f"127.0.0.1:{free_port()}",), timeout=0.2)
    threads = threading.active_count()
    with pytest.raises(KafkaError):
        create_client(kind, kafka_config)
    assert threading.active_count() == threads
