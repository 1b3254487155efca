"""Asking each broker by itself, over a connection of our own, what it has against us.

kafka-python (3.0.12) tries one bootstrap at random and drops the last words of a broker that hangs
up, so that a refused password reads like a network that is down.
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

from storage.kafka_place import KafkaPlace, Sasl, client_options

_SECONDS = 3.0
_AT_ONCE = 16
_TLS_ALERT = b"\x15\x03"


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What the broker at an address said: nothing against us, or what, in a few words.

    `is_refusal` says that it takes connections, but not as we are configured. `brokers` are the
    addresses of the cluster that it gives to clients.
    """

    address: str
    problem: str = ""
    is_refusal: bool = False
    brokers: tuple[str, ...] = ()


class _Refused(Exception):
    """Say what a broker has against us."""


class _HungUp(Exception):
    """Say that a broker ended the connection without a word."""


class _Wire(Protocol):
    """A socket, with or without TLS."""

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...


def ask_brokers(place: KafkaPlace) -> list[Greeting]:
    """Ask every bootstrap; where all are well, the addresses that they give to clients, too."""
    found = _ask_all(place, place.bootstrap)
    if any(each.problem for each in found):
        return found
    others = {address for each in found for address in each.brokers} - {*place.bootstrap}
    return found + _ask_all(place, sorted(others))


def problems_of(greetings: Iterable[Greeting]) -> str:
    """Return what brokers have against us, with their addresses where there are several."""
    found = list(greetings)
    with_problem = [each for each in found if each.problem]
    if len(found) == 1:
        return with_problem[0].problem if with_problem else ""
    return "; ".join(f"{each.address}: {each.problem}" for each in with_problem)


def _ask_all(place: KafkaPlace, addresses: Iterable[str]) -> list[Greeting]:
    addresses = list(addresses)
    if not addresses:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(addresses))) as pool:
        return list(pool.map(lambda each: _greet(place, each), addresses))


def _greet(place: KafkaPlace, address: str) -> Greeting:
    """Connect, say who we are and ask for the brokers; each step has 3 s."""
    host, _, port = address.rpartition(":")
    context = client_options(place).get("ssl_context")
    try:
        with socket.create_connection((host, int(port)), _SECONDS) as plain:
            if context is None:
                brokers = _talk(plain, place, host)
            else:
                with context.wrap_socket(plain, server_hostname=host) as wrapped:
                    brokers = _talk(wrapped, place, host)
    except _Refused as error:
        return Greeting(address=address, problem=str(error), is_refusal=True)
    except _HungUp:
        return Greeting(address=address, problem=_hung_up(place))
    except OSError as error:
        return Greeting(address=address, problem=_words_of(error))
    return Greeting(address=address, brokers=brokers)


def _talk(wire: _Wire, place: KafkaPlace, host: str) -> tuple[str, ...]:
    protocol = KafkaProtocol(client_id="longwatch")
    _ask(wire, protocol, ApiVersionsRequest(version=0))
    if place.sasl is not None:
        _log_in(wire, protocol, place, place.sasl, host)
    try:
        known = _ask(wire, protocol, MetadataRequest(version=1, topics=[]))
    except _HungUp:
        if place.sasl is None:
            raise _Refused("it asks who we are: set log.kafka.sasl") from None
        raise
    return tuple(f"{each.host}:{each.port}" for each in known.brokers)


def _log_in(wire: _Wire, protocol: KafkaProtocol, place: KafkaPlace, sasl: Sasl, host: str) -> None:
    """Do the exchange of SASL (KIP-43, KIP-152); raise _Refused with the broker's words."""
    offer = _ask(wire, protocol, SaslHandshakeRequest(version=1, mechanism=sasl.mechanism))
    error = kafka.errors.for_code(offer.error_code)
    if error is kafka.errors.IllegalSaslStateError:
        raise _Refused("it does not ask who we are: remove log.kafka.sasl")
    if error is not kafka.errors.NoError:
        offered = ", ".join(offer.mechanisms) or "none"
        raise _Refused(
            f"it does not take {sasl.mechanism}, but {offered}: see log.kafka.sasl.mechanism"
        )
    mechanism = get_sasl_mechanism(sasl.mechanism)(host=host, **client_options(place))
    while not mechanism.is_done():
        request = SaslAuthenticateRequest(mechanism.auth_bytes(), version=0)
        reply = _ask(wire, protocol, request)
        if reply.error_code:
            told = reply.error_message or kafka.errors.for_code(reply.error_code).__name__
            raise _Refused(f"it refuses {sasl.user}: {told}: see log.kafka.sasl")
        mechanism.receive(reply.auth_bytes)
    if not mechanism.is_authenticated():
        raise _Refused("it does not know our password, either: is it the broker we mean?")


def _ask(wire: _Wire, protocol: KafkaProtocol, request: Any) -> Any:
    """Send a request and return its response; raises _HungUp, _Refused and OSError."""
    protocol.send_request(request)
    wire.sendall(protocol.send_bytes())
    received = b""
    while True:
        data = wire.recv(4096)
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


def _hung_up(place: KafkaPlace) -> str:
    if place.tls is None:
        return "it hangs up on us: does it ask for log.kafka.tls, or is it no broker?"
    return "it hangs up on us: does it ask for log.kafka.tls.certificate or log.kafka.sasl?"


def _words_of(error: OSError) -> str:
    """Return what a socket says, in lower case as the rest of the line."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_SECONDS:.0f} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message).lower()
    if isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS: does it ask for log.kafka.tls?"
    if isinstance(error, ssl.SSLError):
        return str(error.reason).lower().replace("_", " ") + ": see log.kafka.tls"
    return (error.strerror or str(error)).lower()
