"""Opening the log, wherever it is."""

from pathlib import Path

from storage.kafka_place import KafkaPlace
from storage.log import Log
from storage.needs import Needs


def open_log(place: Path | KafkaPlace, *, reading: bool = False, needs: Needs | None = None) -> Log:
    """Open the log in a SQLite file, or on Kafka; raises StorageBlocked and StorageUnfit.

    For reading alone the file or the topics have to be there, and nothing is written to them. On
    Kafka a right that is missing of those in `needs` is StorageUnfit.
    """
    if isinstance(place, KafkaPlace):
        from storage.kafka_log import KafkaLog

        log = KafkaLog(place, reading=reading)
        if needs is not None:
            _check(place, needs, log)
        return log
    from storage.sqlite_log import PARTS, SqliteLog

    return SqliteLog(place, parts=PARTS, reading=reading)


def _check(place: KafkaPlace, needs: Needs, log: Log) -> None:
    from storage.kafka_rights import check_rights

    try:
        check_rights(place, needs)
    except BaseException:
        log.close()
        raise
