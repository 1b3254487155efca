"""Opening the log: a SQLite file, or Kafka."""

from pathlib import Path

from storage.log.access import LogAccess
from storage.log.kafka.client.config import KafkaConfig
from storage.log.log import Log


def open_log(
    location: Path | KafkaConfig, *, read_only: bool = False, access: LogAccess | None = None
) -> Log:
    """Open the log in a SQLite file, or on Kafka; raises StorageBlocked and StorageUnfit.

    With `read_only` the file or the topics have to exist, and nothing is written. On Kafka a
    missing right of those in `access` is StorageUnfit.
    """
    if isinstance(location, KafkaConfig):
        from storage.log.kafka.log import KafkaLog

        log = KafkaLog(location, read_only=read_only)
        if access is not None:
            _check_access(location, access, log)
        return log
    from storage.log.sqlite.log import PARTITIONS, SqliteLog

    return SqliteLog(location, partitions=PARTITIONS, read_only=read_only)


def _check_access(config: KafkaConfig, access: LogAccess, log: Log) -> None:
    from storage.log.kafka.admin.acls import check_acls

    try:
        check_acls(config, access)
    except BaseException:
        log.close()
        raise
