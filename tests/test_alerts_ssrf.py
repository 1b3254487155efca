"""Nothing on this machine or in its network is reached through a receiver's URL."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

import pytest

from alerts.notify import http
from alerts.notify.egress import AddressRefused, EgressAllowlist, is_public, parse_allowlist
from alerts.notify.http import EgressPolicy, check_url
from alerts.notify.network import Resolver, resolve
from alerts.notify.outcomes import Delivered, DeliveryOutcome, Retry
from kit.alerts.webhook_receiver import a_webhook, run_receiver

NOW = datetime.now(UTC)

# Every way we know to write this machine, its network, or a cloud's metadata service.
HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0.0.0.0", "0", "2130706433",
    "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "017700000001", "0177.0.0.1", "0177.0.0.01",
    "localhost", "LOCALHOST", "localhost.", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
    "[fe80::1]", "[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[100::1]",
    "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "192.0.0.192", "198.18.0.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "169.254.169.254", "2852039166",
    "0xa9fea9fe", "[::ffff:169.254.169.254]", "100.100.100.200", "metadata.google.internal",
    "metadata", "metadata.goog.", "instance-data",
]  # fmt: skip
# What a URL can hide a host behind; refused when the settings are read.
URLS = [
    "https://soc.example@127.0.0.1/", "https://127.0.0.1\\@soc.example/", "https://soc.example\\.x/",
    "https://127.0.0.1%2f@soc.example/", "https://soc.example%00.x/", "https:/127.0.0.1/",
    "https://①②⑦.0.0.1/", "https://127。0。0。1/", "file:///etc/passwd", "gopher://127.0.0.1/",
    "http://127.0.0.1/", "http://soc.example/", "https://soc.example\t.x/", "https://[::1/",
]  # fmt: skip


@contextmanager
def canary() -> Iterator[tuple[int, list[object]]]:
    """Listen on every address of this machine; what connects is kept in the list."""
    hits: list[object] = []
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    connection, address = server.accept()
                except TimeoutError:
                    continue
                hits.append(address)
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield server.getsockname()[1], hits
        finally:
            threading.Event().wait(0.1)
            done.set()
            thread.join()


def sent(url: str, egress_policy: EgressPolicy) -> DeliveryOutcome:
    return a_webhook(url, egress_policy=egress_policy).send(UUID(int=5), b"{}", NOW)


def test_table_is_long_enough() -> None:
    assert len(HOSTS) + len(URLS) >= 40


@pytest.mark.slow
def test_no_spelling_of_a_private_host_reaches_the_canary() -> None:
    with canary() as (port, hits):
        outcomes = {host: sent(f"https://{host}:{port}/", EgressPolicy()) for host in HOSTS}
    assert hits == []
    for host, outcome in outcomes.items():
        assert isinstance(outcome, Retry), host
        unresolved = outcome.reason.startswith("cannot connect: ")
        assert unresolved or outcome.hint.endswith("under `allow`"), (host, outcome)


def test_canary_hears_what_is_allowed() -> None:
    with canary() as (port, hits):
        sent(f"http://127.0.0.1:{port}/", EgressPolicy(allowed=parse_allowlist(["127.0.0.0/8"])))
    assert len(hits) == 1


@pytest.mark.parametrize("url", URLS)
def test_url_that_hides_its_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url must"):
        check_url(url, allowed=EgressAllowlist())


def rebinding(*answers: list[str]) -> tuple[Resolver, list[str]]:
    """Resolve a name to one answer after the other, and keep who asked."""
    asked: list[str] = []

    def answer(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return answer, asked


def test_name_that_rebinds_is_resolved_once_and_never_reaches_the_canary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", timedelta(seconds=0.3))
    public = ["192.31.196.1"]  # of the internet, and nobody answers there
    assert is_public(public[0])
    with canary() as (port, hits):
        resolver, asked = rebinding(public, ["127.0.0.1"])
        url, egress_policy = f"https://rebinds.example:{port}/", EgressPolicy(resolve=resolver)
        outcomes = [sent(url, egress_policy), sent(url, egress_policy)]
        assert asked == ["rebinds.example"] * 2
    assert hits == []
    assert isinstance(outcomes[1], Retry)
    assert outcomes[1].reason == "127.0.0.1 is not a public address"


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with canary() as (port, hits):
        resolver, _ = rebinding(["8.8.8.8", "127.0.0.1"])
        outcome = sent(f"https://both.example:{port}/", EgressPolicy(resolve=resolver))
    assert hits == []
    assert isinstance(outcome, Retry)
    assert outcome.reason == "127.0.0.1 is not a public address"


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/", "http://127.0.0.1:{port}/"])
def test_redirect_reaches_nobody(target: str) -> None:
    with canary() as (port, hits), run_receiver() as receiver:
        receiver.status, receiver.headers = 301, {"Location": target.format(port=port)}
        egress_policy = EgressPolicy(allowed=EgressAllowlist(everything=True))
        outcome = a_webhook(receiver.url, egress_policy=egress_policy).send(UUID(int=5), b"{}", NOW)
    assert hits == []
    assert isinstance(outcome, Retry)
    assert outcome.reason == "status 301"


def test_host_that_is_allowed_by_name_may_be_private() -> None:
    resolver, _ = rebinding(["127.0.0.1"])
    with run_receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", "SOC.local.")
        check_url(url, allowed=parse_allowlist(["soc.local"]))
        named = EgressPolicy(allowed=parse_allowlist(["soc.local"]), resolve=resolver)
        other = EgressPolicy(allowed=parse_allowlist(["other.local"]), resolve=resolver)
        assert sent(url, named) == Delivered(status=204)
        assert isinstance(sent(url, other), Retry)
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("allow", [["soc.local"], []])
def test_metadata_service_needs_to_be_named_as_a_net(allow: list[str]) -> None:
    open_ = parse_allowlist(allow, everything=not allow)
    with pytest.raises(AddressRefused, match="where a cloud hands out credentials"):
        open_.check("soc.local", ["169.254.169.254"])
    parse_allowlist(["169.254.169.254"]).check("soc.local", ["169.254.169.254"])


# 169.254.169.254 as NAT64 (also local, by each length of prefix), 6to4, Teredo (server, client),
# ISATAP, and the IPv4-mapped, -compatible and -translated forms.
METADATA_FORMS = [
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0", "2002:a9fe:a9fe::",
    "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::", "2001:0:4136:e378:8000:63bf:5601:5601",
    "2a00:1450::5efe:a9fe:a9fe", "2a00:1450::200:5efe:169.254.169.254", "::ffff:169.254.169.254",
    "::169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b::100.100.100.200",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA_FORMS)
def test_metadata_service_embedded_in_an_ipv6_address_is_refused(address: str) -> None:
    somewhere = parse_allowlist(["soc.local", "64:ff9b::/32", "2000::/3", "::/96"])
    for allowed in (EgressAllowlist(everything=True), somewhere):
        with pytest.raises(AddressRefused, match="where a cloud hands out credentials"):
            allowed.check("soc.local", [address])
    assert not is_public(address)
    named = ["169.254.0.0/16", "100.100.100.200"]
    parse_allowlist(named, everything=True).check("soc.local", [address])


@pytest.mark.parametrize("address", ["168.63.129.16", "fd20:ce::254", "fe80::a9fe:a9fe%2"])
def test_metadata_service_of_each_cloud_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="where a cloud hands out credentials"):
        EgressAllowlist(everything=True).check("soc.local", [address])


def test_allowed_translator_does_not_open_the_private_network_behind_it() -> None:
    allowed = parse_allowlist(["64:ff9b::/96"])
    allowed.check("soc.example", ["64:ff9b::8.8.8.8"])
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1 is not a public address"):
        allowed.check("soc.example", ["64:ff9b::10.0.0.1"])
    both = parse_allowlist(["64:ff9b::/96", "10.0.0.0/8"])
    both.check("soc.example", ["64:ff9b::10.0.0.1"])


def test_loopback_and_ordinary_ipv6_addresses_embed_nothing() -> None:
    parse_allowlist(["::1"]).check("", ["::1"])
    parse_allowlist(["fd12::/16"]).check("", ["fd12::a9fe:a9fe"])
    EgressAllowlist().check("", ["2a00:1450:4001:830::a9fe:a9fe"])


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "10.0.0.1/8", "soc local", "", "10.0.0", "a/b", "*"]
)
def test_entry_that_is_neither_net_nor_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8"):
        parse_allowlist([entry])


def test_system_s_resolver_gives_addresses() -> None:
    for address in resolve("localhost", 80):
        assert ip_address(address).is_loopback
