"""What a consumer fetched, decoded within bounds."""

from kafka import KafkaConsumer


class Fault(str):
    """Why something could not be decoded; it is in the place of the headers of a record."""

    __slots__ = ()


def bound_records(consumer: KafkaConsumer, *, largest: int) -> None:
    """Let a consumer decode as kafka-python does."""
