"""Check the data directory, and warn of weak passwords."""

import tempfile
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from deploy.config.problems import SettingKey, SettingProblem
from deploy.config.settings import LongwatchSettings
from deploy.logs.redaction import is_distinct

_WEAK = (
    "the password is short, or a common word: logs hide it only inside urls and after `password=`;"
    " choose 8 characters or more of several kinds"
)


def data_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield that the data directory cannot be made or written; leave no trace."""
    folder = settings.data
    try:
        folder = next(each for each in (folder, *folder.parents) if each.exists())
        tempfile.TemporaryDirectory(prefix=".longwatch-", dir=folder).cleanup()
    except OSError as error:
        message = f"{folder} cannot be written ({error.strerror}): name a directory that can be"
        yield SettingProblem(key=("data",), message=message)


def weak_secrets(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield the passwords that logs cannot hide everywhere; they can be used nevertheless.

    The form of webhook secrets and PagerDuty keys makes them long.
    """
    for key, password in _passwords(settings):
        if password and not is_distinct(unquote(password)):
            yield SettingProblem(key=key, message=_WEAK)


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
