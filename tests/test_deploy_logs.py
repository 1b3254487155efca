"""Log lines: what they are, and what never stands in them."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing

import pytest

from deploy.logs.redaction import SecretRedactor

PASSWORD, SECRET = "p%40ss/w0rd", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
LOGGING = """
import logging, sys, warnings
import structlog
from deploy.logs.setup import LoggingConfig, configure_logging

password, secret, spelling = sys.argv[1:]
configure_logging(LoggingConfig(secrets=(f"rtsp://guard:{password}@10.0.0.21/sub", secret)))
try:
    raise OSError(f"cannot open rtsp://guard:{spelling}@10.0.0.21/sub")
except OSError:
    structlog.get_logger().error(f"{spelling} {secret}", url=spelling, all=[secret], exc_info=True)
    logging.getLogger("library").exception("signed with %s", secret)
warnings.warn(f"camera {spelling}")
structlog.get_logger().debug("too much")
"""


@pytest.mark.parametrize("spelling", [PASSWORD, "p@ss/w0rd"])
def test_no_log_line_shows_a_secret(spelling: str) -> None:
    command = [sys.executable, "-c", LOGGING, PASSWORD, SECRET, spelling]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert spelling not in result.stderr
    assert SECRET not in result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert len(lines) == 3
    assert all("***" in line["event"] for line in lines)
    assert all("OSError: cannot open " in line["exception"] for line in lines[:2])


def cleaned(line: dict[str, object], *secrets: str) -> dict[str, object]:
    return dict(SecretRedactor(secrets)(None, "", dict(line)))


@pytest.mark.parametrize("password", ["camera", "loadingdock", "12345678", "a", "ear-a!"])
def test_common_word_as_a_password_spares_what_is_not_secret(password: str) -> None:
    line: dict[str, object] = {
        "process": f"{password}-yard",
        "camera": password,
        "event": f"the {password} is not {password}s, {password} started: {password}/stream",
        "level": "info",
    }
    assert cleaned(line, f"rtsp://guard:{password}@10.0.0.21/sub", password) == line


@pytest.mark.parametrize("password", ["camera", "abc", "a", "12345678", "p@ss/", "pa$$", "c d"])
@pytest.mark.parametrize(
    "text",
    [
        "cannot open rtsp://guard:{}@10.0.0.21/sub",
        "cannot open rtsp://:{}@10.0.0.21/sub, again",
        "postgresql://longwatch:{}@db/longwatch",
        "host=db password={} user=x",
        "{{'password': '{}', 'user': 'x'}}",
        '{{"api_token": "{}"}}',
        "PASSWD='{}'",
        "GET /hook?k={}&x=1 HTTP/1.1",
    ],
)
def test_any_password_is_hidden_where_passwords_are(password: str, text: str) -> None:
    said = str(cleaned({"event": text.format(password)}, password)["event"])
    assert said == text.format("***")


@pytest.mark.parametrize(
    "text",
    ["Authorization: Basic Z3VhcmQ6Y2FtZXJh", "{'Authorization': 'Bearer abc'}"],
)
def test_header_and_userinfo_are_hidden_even_of_strangers(text: str) -> None:
    said = str(cleaned({"event": f"sent {text}"})["event"])
    assert ("Z3V" in said, "abc" in said, "uthorization" in said) == (False, False, True)
    told = cleaned({"event": "rtsp://ann:whatever@10.0.0.9:554/x and rtsp://10.0.0.9:554/x@y"})
    assert told == {"event": "rtsp://ann:***@10.0.0.9:554/x and rtsp://10.0.0.9:554/x@y"}


@pytest.mark.parametrize("secret", ["hunter2!", "Tr0ubador", "a" * 16, SECRET])
def test_distinct_secret_is_hidden_wherever_it_is(secret: str) -> None:
    assert cleaned({"event": f"x{secret}y", "url": [secret]}, secret) == {
        "event": "x***y",
        "url": "['***']",
    }


def test_names_of_ours_are_left_even_where_they_are_a_password() -> None:
    line: dict[str, object] = {
        "process": "camera-yard-0001",
        "camera": "yard-0001",
        "event": "yard-0001",
    }
    assert cleaned(line, "yard-0001") == line | {"event": "***"}


WRITING = """
import logging, sys, threading
import structlog
from deploy.logs.setup import LoggingConfig, configure_logging

configure_logging(LoggingConfig(), sys.argv[1])

def write(log, kind):
    for n in range(12):
        log("%s %d %s", kind, n, "x" * (n % 4 * 6000))

threads = [
    threading.Thread(target=write, args=(structlog.get_logger().info, "ours")),
    threading.Thread(target=write, args=(structlog.get_logger().warning, "ours too")),
]
for thread in threads:
    thread.start()
for n in range(12):
    logging.getLogger(f"library{n}").warning("y" * (n % 4 * 6000))
for thread in threads:
    thread.join()
"""


def test_lines_of_eight_processes_that_share_a_pipe_stay_whole() -> None:
    """The pipe holds 64 KiB and is read slowly, so that long lines do not fit at once."""
    reader, writer = os.pipe()
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", WRITING]
    names = [f"camera-{n}" for n in range(8)]
    with closing(os.fdopen(reader, "rb", buffering=0)) as pipe:
        writers = [
            subprocess.Popen([*command, name], stderr=writer, env=environment)
            for name, environment in zip(names, [buffered, unbuffered] * 4, strict=True)
        ]
        os.close(writer)
        expected = b""
        while piece := pipe.read(30_000):
            expected += piece
            time.sleep(0.002)
        assert [each.wait() for each in writers] == [0] * 8
    lines = [json.loads(line) for line in expected.decode().splitlines()]
    assert len(lines) == 8 * 3 * 12
    assert {line["process"] for line in lines} == set(names)
    assert max(len(line["event"]) for line in lines) > 18_000
