"""What `validate` checks beyond the settings themselves: this machine, and weak secrets."""

import tempfile
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from deploy.config.settings import LongwatchSettings, SettingKey
from deploy.logs.setup import is_distinct

_WEAK_PASSWORD = (
    "short, or a common word: logs hide it only inside urls and after `password=`;"
    " choose 8 characters or more of several kinds"
)


def data_problems(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield that the data directory cannot be made or written, tried without leaving a trace."""
    folder = settings.data
    try:
        folder = next(each for each in (folder, *folder.parents) if each.exists())
        tempfile.TemporaryDirectory(prefix=".longwatch-", dir=folder).cleanup()
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror}): name a directory that can be"
        yield ("data",), message


def weak_secrets(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield the passwords that logs cannot hide wherever they appear; they are good all the same.

    Secrets of webhooks and the key of PagerDuty are long by their form.
    """
    for key, password in _passwords(settings):
        if password and not is_distinct(unquote(password)):
            yield key, f"the password is {_WEAK_PASSWORD}"


def _passwords(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str | None]]:
    for name, camera in settings.cameras.items():
        yield ("cameras", name, "url"), _password(camera.url.get_secret_value())
    for name, receiver in settings.receivers.items():
        if receiver.apprise is not None:
            url = receiver.apprise.url.get_secret_value()
            yield ("receivers", name, "apprise", "url"), _password(url)
    kafka = settings.log.kafka
    if kafka is not None and kafka.sasl is not None:
        yield ("log", "kafka", "sasl", "password"), kafka.sasl.password.get_secret_value()
    if settings.database is not None:
        yield ("database",), _password(settings.database.get_secret_value())


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:
        return None
