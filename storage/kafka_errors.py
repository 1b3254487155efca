"""What goes wrong with a broker, in words of storage."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from storage.errors import StorageDown, StorageUnfit
from storage.kafka_place import KafkaPlace, client_options

_REFUSED = (AuthorizationError, SaslAuthenticationFailedError, UnsupportedSaslMechanismError)
_HANDSHAKE_SECONDS = 3.0


@contextmanager
def named(place: KafkaPlace) -> Iterator[None]:
    """Turn errors of kafka-python into StorageDown and StorageUnfit."""
    try:
        yield
    except _REFUSED as error:
        raise StorageUnfit(place.name, f"{_brief(error)}: see log.kafka.sasl") from None
    except InvalidReplicationFactorError:
        told = "fewer brokers than log.kafka.replication asks for: lower it"
        raise StorageUnfit(place.name, told) from None
    except MessageSizeTooLargeError:
        told = f"it takes no message of {place.largest} bytes: raise its message.max.bytes"
        raise StorageUnfit(place.name, told) from None
    except (KafkaError, OSError) as error:
        raise StorageDown(place.name, why_silent(place) or _guessed(error)) from None


def why_silent(place: KafkaPlace) -> str:
    """Return why the first broker cannot be talked to; nothing where it takes connections."""
    host, _, port = place.bootstrap[0].rpartition(":")
    context = client_options(place).get("ssl_context")
    try:
        with socket.create_connection((host, int(port)), _HANDSHAKE_SECONDS) as plain:
            if context is not None:
                context.wrap_socket(plain, server_hostname=host).close()
    except OSError as error:
        told = getattr(error, "verify_message", None) or error.strerror or str(error)
        return told.lower()
    return ""


def _guessed(error: Exception) -> str:
    """Return what is wrong with a broker that takes connections: it may hang up without a word."""
    if isinstance(error, KafkaTimeoutError) and "bootstrap" in str(error):
        return "it hangs up on us: are log.kafka.tls and log.kafka.sasl what it asks for?"
    return _brief(error)


def _brief(error: Exception) -> str:
    """Return an error in a few words; what kafka-python adds repeats the whole request."""
    return f"{type(error).__name__}: {error}".split("Request '")[0].rstrip(": ")[:200]
