"""A checkpoint of random weights, and the `longwatch` command as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.cli.app import main
from kit.model.small_model import save_checkpoint

LONGWATCH = (sys.executable, "-m", "deploy")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session", name="checkpoint")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose answers mean nothing."""
    return save_checkpoint(tmp_path_factory.mktemp("model"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(name="command")
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that sets up no logging, in this process."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["longwatch", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        code, output = end.value.code, capsys.readouterr()
        assert isinstance(code, int)
        return subprocess.CompletedProcess([*map(str, words)], code, output.out, output.err)

    return run


def longwatch(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command, in a process of its own, to its end."""
    return subprocess.run(
        [*LONGWATCH, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT
    )


@contextmanager
def run_longwatch(*words: object, errors: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, its stderr into a file, for as long as the block runs at most."""
    command = [*LONGWATCH, *map(str, words)]
    with errors.open("wb") as file, subprocess.Popen(command, stderr=file, cwd=ROOT) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
