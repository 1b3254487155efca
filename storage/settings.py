"""The settings of the log and the database."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from storage.byte_size import ByteSize
from storage.db.postgres.server_url import parse_server_url
from storage.duration import parse_duration
from storage.log.retention import DEFAULT_WINDOW_AGE

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def expand_home(path: Path) -> Path:
    """Expand `~` in a path; raise ValueError if there is no home."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("`~` names no user's home here: write the whole path") from None


HomePath = Annotated[Path, AfterValidator(expand_home)]


class TlsSettings(BaseModel):
    """PEM files; without `ca` the brokers are checked against the system's authorities."""

    model_config = _STRICT

    ca: HomePath | None = None
    certificate: HomePath | None = None
    key: HomePath | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("a key without its certificate: add certificate")
        return self


class SaslSettings(BaseModel):
    """The login at the brokers."""

    model_config = _STRICT

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str
    password: SecretStr


class StaticMembershipSettings(BaseModel):
    """Static membership of analyzers (KIP-345): a restart within `session` moves no partition.

    The name of a member is `name`, or its host, and its device. The bounds of `session` are the
    defaults of a broker.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")] | None = None
    session: Annotated[Duration, Field(ge=timedelta(seconds=6), le=timedelta(minutes=30))] = (
        timedelta(minutes=2)
    )


class KafkaSettings(BaseModel):
    """A Kafka cluster; `partitions` must stay what it was when the topics were created.

    By default `compression` is none for windows, which are JPEGs, and gzip for all else.
    """

    model_config = _STRICT

    bootstrap: Annotated[
        list[Annotated[str, Field(pattern=r"^[^\s:/@]+:[0-9]{1,5}$")]], Field(min_length=1)
    ]
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "longwatch."
    partitions: int = Field(default=12, ge=1, le=1000)
    replication: int | None = Field(default=None, ge=1, le=100)
    compression: Literal["auto", "none", "gzip", "lz4", "zstd"] = "auto"
    timeout: Annotated[Duration, Field(ge=timedelta(seconds=1))] = timedelta(seconds=30)
    session: Annotated[Duration, Field(ge=timedelta(seconds=6))] = timedelta(seconds=8)
    static: StaticMembershipSettings | None = None
    tls: TlsSettings | None = None
    sasl: SaslSettings | None = None

    @model_validator(mode="after")
    def _check_static(self) -> Self:
        if self.static is not None and self.static.session < self.session:
            raise ValueError("static.session is shorter than session: lengthen it")
        return self


class LogSettings(BaseModel):
    """The log of windows, findings and incidents; without `kafka` a file in `data`.

    It keeps windows for `keep` at most, and up to `limit` bytes of them: by default a fifth of
    the disk of `data`, at least 2 GiB; on Kafka 2 GiB a partition.
    """

    model_config = _STRICT

    kafka: KafkaSettings | None = None
    keep: Annotated[Duration, Field(ge=timedelta(seconds=16))] = DEFAULT_WINDOW_AGE
    limit: ByteSize | None = None


def check_database_url(url: SecretStr | None) -> SecretStr | None:
    """Return the URL of a database server; raise ValueError if it is none."""
    if url is not None:
        try:
            parse_server_url(url.get_secret_value())
        except ValueError as error:
            raise ValueError(f"{error}; without it a file in `data` is used") from None
    return url


DatabaseUrl = Annotated[SecretStr | None, AfterValidator(check_database_url)]
