"""Clients that find no broker leave no thread behind."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from ingest_fixtures import free_port
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from storage.kafka_client import connected
from storage.kafka_place import KafkaPlace


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_no_thread_stays_where_no_broker_answers(kind: Callable[..., Any]) -> None:
    place = KafkaPlace(bootstrap=(f"127.0.0.1:{free_port()}",), timeout=0.2)
    threads = threading.active_count()
    with pytest.raises(KafkaError):
        connected(kind, place)
    assert threading.active_count() == threads
