"""Find the settings file that a command works on."""

import os
from pathlib import Path

from deploy.errors import BadSettings

CONFIG_VARIABLE = "LONGWATCH_CONFIG"
"""Names the settings file if no option does; it is no setting itself."""
CONFIG_FILES = (Path("longwatch.yaml"), Path("/etc/longwatch/longwatch.yaml"))
"""The settings files that are tried in this order if neither option nor variable names one."""


def default_config(option: str = "--config FILE") -> Path:
    """Return the settings file if no option names one; raise BadSettings if there is none."""
    found = find_config()
    if found is None:
        tried = " nor ".join(f"{file.parent}/{file.name}" for file in CONFIG_FILES)
        message = f"{CONFIG_VARIABLE} is not set, and there is neither {tried}"
        raise BadSettings(f"{message}: name one with {option}")
    return found


def find_config() -> Path | None:
    """Return the settings file that the environment names, or else the first default file."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else next((file for file in CONFIG_FILES if file.is_file()), None)
