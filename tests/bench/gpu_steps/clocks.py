"""What is put around calls of the product: clocks, profiles, a last call to be made again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bench.gpu_steps.bench import Bench


@contextmanager
def around(
    owner: object, name: str, inside: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Run every call of a method of one object in a context."""
    plain = getattr(owner, name)

    def surrounded(*arguments: Any, **named: Any) -> Any:
        with inside():
            return plain(*arguments, **named)

    setattr(owner, name, surrounded)
    try:
        yield
    finally:
        delattr(owner, name)


class Stopwatch:
    """How long the calls of some methods take, the device waited for before and after each."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, owner: object, *methods: str, prefix: str = "") -> Iterator[None]:
        """Add up the seconds of these methods while the block runs."""
        if not methods:
            yield
            return
        first, *others = methods
        with (
            around(owner, first, lambda: self.timed(prefix + first)),
            self.on(owner, *others, prefix=prefix),
        ):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add up the seconds of what the block does."""
        self._bench.sync()
        began = self._bench.clock()
        try:
            yield
        finally:
            self._bench.sync()
            self.seconds[name] = self.seconds.get(name, 0.0) + self._bench.clock() - began


class LastCall:
    """The last call of a method, to be made again."""

    def __init__(self) -> None:
        self.again: Callable[[], object] = self._missed

    @staticmethod
    def _missed() -> object:
        raise AssertionError("the method was never called")

    @contextmanager
    def of(self, owner: object, name: str) -> Iterator[None]:
        """Keep the calls of a method while the block runs."""
        plain = getattr(owner, name)

        def kept(*arguments: Any, **named: Any) -> Any:
            self.again = lambda: plain(*arguments, **named)
            return self.again()

        setattr(owner, name, kept)
        try:
            yield
        finally:
            delattr(owner, name)
