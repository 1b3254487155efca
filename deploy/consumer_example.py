"""Follow the incidents of longwatch with plain kafka-python: `consumer_example.py HOST:PORT`.

Every revision of an incident arrives at least once; `ce_id` identifies repeats. An offset is
committed after its message is processed, so that a message that fails arrives again.
"""

import json
import sys
from collections import OrderedDict

from kafka import KafkaConsumer


def main() -> None:
    """Print each revision of an incident once."""
    bootstrap, prefix = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "longwatch."
    topic = f"{prefix}incidents"
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id="consumer-example",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        allow_auto_create_topics=False,
    )
    if topic not in consumer.topics():
        sys.exit(f"topic {topic} is missing: start longwatch, which makes it")
    consumer.subscribe([topic])
    seen: OrderedDict[str, None] = OrderedDict()
    for message in consumer:
        headers = {name: value.decode() for name, value in message.headers}
        if headers.get("ce_type") == "longwatch.incident.v1" and headers["ce_id"] not in seen:
            incident = json.loads(message.value)
            fields = (incident[name] for name in ("last_seen_at", "camera", "rule", "state"))
            print(*fields, flush=True)
            seen[headers["ce_id"]] = None
            if len(seen) > 10_000:
                seen.popitem(last=False)
        consumer.commit()


if __name__ == "__main__":
    main()
