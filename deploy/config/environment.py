"""Remove secrets from the environment once the settings are read: no child inherits them."""

import ctypes
import os
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, SecretStr

from deploy.config.settings import PREFIX
from deploy.config.settings_file import SettingsFile


def drop_secrets(file: SettingsFile) -> None:
    """Unset the variables that override settings, or that the file expands into a secret.

    Other variables, such as HOME or HF_HOME, stay.
    """
    texts = [secret.get_secret_value() for secret in secrets_in(file.settings)]
    variables = [
        name
        for name in file.document.variables
        if os.environ.get(name) and any(os.environ[name] in text for text in texts)
    ]
    _unset([*variables, *(name for name in os.environ if name.upper().startswith(PREFIX))])


def _unset(names: Iterable[str]) -> None:
    """Unset variables, and overwrite them in memory: the kernel shows it as /proc/PID/environ."""
    getenv = ctypes.CDLL(None).getenv
    getenv.argtypes, getenv.restype = [ctypes.c_char_p], ctypes.c_void_p
    for name in names:
        value = getenv(os.fsencode(name))
        if value:
            ctypes.memset(value, 0, len(ctypes.string_at(value)))
        del os.environ[name]


def secrets_in(value: object) -> Iterator[SecretStr]:
    """Yield the secrets in settings."""
    if isinstance(value, SecretStr):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from secrets_in(inner)
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from secrets_in(inner)
