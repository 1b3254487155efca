"""A broker that asks who comes and what they may: SASL PLAIN, and rights that tests give."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
)
from kafka.errors import KafkaError

from kit.kafka.broker import Broker, remove_broker
from storage.log.kafka.client.config import KafkaConfig, Sasl

PASSWORD = "c4n4ry-9Q"
USERS = ("owner", "longwatch", "guest")
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_START_SECONDS = 60.0


class AclBroker(Broker):
    """A broker whose clients are `owner`, who may all, and others, who may what they are given."""

    def __init__(self) -> None:
        users = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
        super().__init__(
            settings={
                "listener.security.protocol.map": (
                    "CONTROLLER:PLAINTEXT,CLIENT:SASL_PLAINTEXT,INTER:PLAINTEXT"
                ),
                "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.client.plain.sasl.jaas.config": f"{_PLAIN} {users};",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:owner",
            }
        )

    @property
    def inter_broker_address(self) -> str:
        """Return the address where nobody is asked who comes."""
        listeners = dict(each.split("://") for each in self.settings["listeners"].split(","))
        return str(listeners["INTER"])

    def place_of(self, user: str = "owner", **other: object) -> KafkaConfig:
        """Return topics of their own, as a user sees them."""
        return self.place(**({"sasl": sasl_of(user)} | other))  # type: ignore[arg-type]

    def grant(
        self, operation: str, kind: str, name: str, *, prefix: bool = False, user: str = "longwatch"
    ) -> None:
        """Give a right: `READ_TIMEOUT` on the `TOPIC` of a name, or on all that begin so."""
        with self.admin() as admin:
            acl = ACL(
                **_acl(operation, user),
                resource_pattern=_resource_pattern(kind, name, prefix=prefix),
            )
            done = admin.create_acls([acl])
            assert not done["failed"], done

    def revoke(self, operation: str, kind: str, name: str) -> None:
        """Take a right away."""
        pattern = ResourcePatternFilter(
            ResourceType[kind], name, _resource_pattern(kind, name).pattern_type
        )
        with self.admin() as admin:
            admin.delete_acls([ACLFilter(**_acl(operation), resource_pattern=pattern)])

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        client = KafkaAdminClient(bootstrap_servers=self.inter_broker_address)
        try:
            yield client
        finally:
            client.close()


def sasl_of(user: str, password: str = PASSWORD, mechanism: str = "PLAIN") -> Sasl:
    return Sasl(mechanism=mechanism, user=user, password=password)


@contextmanager
def run_acl_broker() -> Iterator[AclBroker]:
    """Run one."""
    broker = AclBroker()
    try:
        broker.start()
        _wait_until_ready(broker)
        yield broker
    finally:
        remove_broker(broker)


def _wait_until_ready(broker: AclBroker) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(KafkaError), broker.admin() as admin:
            if admin.describe_cluster()["brokers"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"it does not come up: {broker.log_file.read_text()[-3000:]}")


def _acl(operation: str, user: str = "longwatch") -> dict[str, object]:
    return {
        "principal": f"User:{user}",
        "host": "*",
        "operation": ACLOperation[operation],
        "permission_type": ACLPermissionType.ALLOW,
    }


def _resource_pattern(kind: str, name: str, *, prefix: bool = False) -> ResourcePattern:
    pattern = ACLResourcePatternType.PREFIXED if prefix else ACLResourcePatternType.LITERAL
    return ResourcePattern(ResourceType[kind], name, pattern)
