"""Probe each broker over our own connection, to find out why it does not let us in.

kafka-python (3.0.12) tries one bootstrap at random and drops the reason of a broker that hangs up,
so a refused password looks like a network that is down.
"""

import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import kafka.errors
from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from storage.log.kafka.client.config import KafkaConfig, Sasl, client_options

_SECONDS = 3.0
_MAX_THREADS = 16
_TLS_ALERT = b"\x15\x03"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerProbe:
    """The result of probing the broker at an address; `problem` is empty if it lets us in.

    `is_refusal` says that it accepts connections, but not with our configuration. `brokers` are
    the advertised addresses of the cluster.
    """

    address: str
    problem: str = ""
    is_refusal: bool = False
    brokers: tuple[str, ...] = ()


class _Refused(Exception):
    """Say why a broker refuses us."""


class _HungUp(Exception):
    """Say that a broker closed the connection without a reason."""


class _Socket(Protocol):
    """A socket, with or without TLS."""

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...


def probe_brokers(config: KafkaConfig) -> list[BrokerProbe]:
    """Probe every bootstrap and, if all are well, the other advertised addresses."""
    found = _probe_all(config, config.bootstrap)
    if any(each.problem for each in found):
        return found
    others = {address for each in found for address in each.brokers} - {*config.bootstrap}
    return found + _probe_all(config, sorted(others))


def join_problems(probes: Iterable[BrokerProbe]) -> str:
    """Return the problems of brokers, with their addresses if there are several."""
    found = list(probes)
    with_problem = [each for each in found if each.problem]
    if len(found) == 1:
        return with_problem[0].problem if with_problem else ""
    return "; ".join(f"{each.address}: {each.problem}" for each in with_problem)


def _probe_all(config: KafkaConfig, addresses: Iterable[str]) -> list[BrokerProbe]:
    addresses = list(addresses)
    if not addresses:
        return []
    with ThreadPoolExecutor(min(_MAX_THREADS, len(addresses))) as pool:
        return list(pool.map(lambda each: _probe(config, each), addresses))


def _probe(config: KafkaConfig, address: str) -> BrokerProbe:
    """Connect, authenticate and fetch the brokers; each step may last 3 s."""
    host, _, port = address.rpartition(":")
    context = client_options(config).get("ssl_context")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as plain:
            if context is None:
                brokers = _fetch_brokers(plain, config, host)
            else:
                with context.wrap_socket(plain, server_hostname=host) as wrapped:
                    brokers = _fetch_brokers(wrapped, config, host)
    except _Refused as error:
        return BrokerProbe(address=address, problem=str(error), is_refusal=True)
    except _HungUp:
        return BrokerProbe(address=address, problem=_hang_up_reason(config))
    except OSError as error:
        return BrokerProbe(address=address, problem=_describe_socket_error(error))
    return BrokerProbe(address=address, brokers=brokers)


def _fetch_brokers(sock: _Socket, config: KafkaConfig, host: str) -> tuple[str, ...]:
    protocol = KafkaProtocol(client_id="longwatch")
    _exchange(sock, protocol, ApiVersionsRequest(version=0))
    if config.sasl is not None:
        _authenticate(sock, protocol, config, config.sasl, host)
    try:
        known = _exchange(sock, protocol, MetadataRequest(version=1, topics=[]))
    except _HungUp:
        if config.sasl is None:
            raise _Refused("it asks who we are: set log.kafka.sasl") from None
        raise
    return tuple(f"{each.host}:{each.port}" for each in known.brokers)


def _authenticate(
    sock: _Socket, protocol: KafkaProtocol, config: KafkaConfig, sasl: Sasl, host: str
) -> None:
    """Authenticate by SASL (KIP-43, KIP-152); raise _Refused with the broker's reason."""
    offer = _exchange(sock, protocol, SaslHandshakeRequest(version=1, mechanism=sasl.mechanism))
    error = kafka.errors.for_code(offer.error_code)
    if error is kafka.errors.IllegalSaslStateError:
        raise _Refused("it does not ask who we are: remove log.kafka.sasl")
    if error is not kafka.errors.NoError:
        offered = ", ".join(offer.mechanisms) or "none"
        raise _Refused(
            f"it does not take {sasl.mechanism}, but {offered}: see log.kafka.sasl.mechanism"
        )
    mechanism = get_sasl_mechanism(sasl.mechanism)(host=host, **client_options(config))
    while not mechanism.is_done():
        request = SaslAuthenticateRequest(mechanism.auth_bytes(), version=0)
        reply = _exchange(sock, protocol, request)
        if reply.error_code:
            reason = reply.error_message or kafka.errors.for_code(reply.error_code).__name__
            raise _Refused(f"it refuses {sasl.user}: {reason}: see log.kafka.sasl")
        mechanism.receive(reply.auth_bytes)
    if not mechanism.is_authenticated():
        raise _Refused("it does not know our password, either: is it the broker we mean?")


def _exchange(sock: _Socket, protocol: KafkaProtocol, request: Any) -> Any:
    """Send a request and return its response; raises _HungUp, _Refused and OSError."""
    protocol.send_request(request)
    sock.sendall(protocol.send_bytes())
    received = b""
    while True:
        data = sock.recv(4096)
        if not data:
            raise _HungUp
        received += data
        if received[:2] == _TLS_ALERT:
            raise _Refused("it speaks TLS: set log.kafka.tls")
        try:
            responses = protocol.receive_bytes(data)
        except kafka.errors.KafkaError:
            raise _Refused("what it says is not Kafka's protocol: is it a broker?") from None
        if responses:
            return responses[0][1]


def _hang_up_reason(config: KafkaConfig) -> str:
    if config.tls is None:
        return "it hangs up on us: does it ask for log.kafka.tls, or is it no broker?"
    return "it hangs up on us: does it ask for log.kafka.tls.certificate or log.kafka.sasl?"


def _describe_socket_error(error: OSError) -> str:
    """Return the error of a socket in lower case."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:.0f} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message).lower()
    if isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS: does it ask for log.kafka.tls?"
    if isinstance(error, ssl.SSLError):
        return str(error.reason).lower().replace("_", " ") + ": see log.kafka.tls"
    return (error.strerror or str(error)).lower()
