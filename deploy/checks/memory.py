"""Check that the memories of all cameras fit this machine, before anything starts.

The arithmetic loads torch, and a query takes GPU memory: a separate process does both, so that
the supervisor keeps neither.
"""

from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

from analyzer.capacity.demand import MemoryDemand
from deploy.config.memory_demand import build_memory_demand
from deploy.config.problems import SettingProblem
from deploy.config.settings import LongwatchSettings
from deploy.errors import CommandFailed


def memory_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield why the memories of all cameras do not fit; the model has to be usable."""
    spawn = get_context("spawn")
    parent, child = spawn.Pipe(duplex=False)
    arguments = (child, build_memory_demand(settings))
    process = spawn.Process(target=_send_shortage, args=arguments, daemon=True)
    process.start()
    child.close()
    try:
        problem: SettingProblem | None = parent.recv()
    except EOFError:
        raise CommandFailed("memory use cannot be computed: see the lines above") from None
    finally:
        process.join()
    if problem:
        yield problem


def device_memory_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield the problems that do not depend on other processes here: of a device, of a limit."""
    if settings.memory.limit is not None or settings.model.device not in ("auto", "cpu"):
        yield from memory_problems(settings)


def _send_shortage(parent: Connection, demand: MemoryDemand) -> None:
    from deploy.checks.shortage import find_shortage  # noqa: PLC0415  loads torch

    parent.send(find_shortage(demand))
