"""Opening the log, wherever it is."""

from pathlib import Path

from storage.kafka_place import KafkaPlace
from storage.log import Log


def open_log(place: Path | KafkaPlace, *, reading: bool = False) -> Log:
    """Open the log in a SQLite file, or on Kafka; raises StorageBlocked and StorageUnfit.

    For reading alone the file or the topics have to be there, and nothing is written to them.
    """
    if isinstance(place, KafkaPlace):
        from storage.kafka_log import KafkaLog

        return KafkaLog(place, reading=reading)
    from storage.sqlite_log import PARTS, SqliteLog

    return SqliteLog(place, parts=PARTS, reading=reading)
