"""What every step on a card needs: the device, the clock, the model, the ceilings.

Legend: N stills, C channels, H W pixels.
"""

import gc
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gpu_steps.footage import Jpeg, footage
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.videoxl2.checkpoint import blank, load_weights, reference_name
from analyzer.videoxl2.config import VideoXL2Config
from analyzer.videoxl2.model import VideoXL2
from analyzer.videoxl2.prompt import NO, YES
from analyzer.videoxl2.speaker import Speaker

if TYPE_CHECKING:
    from gpu_steps.work import Work

Figures = dict[str, Any]
"""What a step found, as its line of JSON has it."""
PUBLISHED = "BAAI/Video-XL-2"
TOKENIZER = Path(__file__).parents[3] / "analyzer" / "nano" / "tokenizer.json"
"""Its timestamps have as many tokens as Qwen's."""
DEVIATION = 0.02
"""Of random weights, as Qwen2 is initialised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much a step does: on a card, or a trifle of it to see that it runs."""

    lanes: tuple[int, ...]
    memory: int
    still: tuple[int, int]
    warm: int
    rounds: int
    passes: int
    headline: int
    long: int
    small: int
    marks: tuple[int, ...]
    rolling: int
    horizon: int


FULL = Sizes(
    lanes=(8, 32),
    memory=4,
    still=(640, 360),
    warm=3,
    rounds=3,
    passes=100,
    headline=128,
    long=624,
    small=64,
    marks=(4, 37, 128, 225),
    rolling=14,
    horizon=37,
)
"""`memory`, `headline` to `small`, `rolling` and `horizon` count windows of 16 stills."""
TINY = Sizes(
    lanes=(2,),
    memory=1,
    still=(160, 90),
    warm=1,
    rounds=1,
    passes=3,
    headline=2,
    long=2,
    small=2,
    marks=(1, 3),
    rolling=7,
    horizon=2,
)


@dataclass(slots=True, kw_only=True)
class Ceilings:
    """What this device does at most, measured in this run; 0 where it was not."""

    flop_s: float = 0.0
    copy_bytes_s: float = 0.0


class NeedsCard(Exception):
    """A step that means nothing on a CPU."""


@dataclass(kw_only=True)
class Bench:
    """One run: where it computes, in what precision, until when, and what it has measured."""

    device: torch.device
    dtype: torch.dtype
    is_tiny: bool
    ends: float
    began: float = field(default_factory=time.monotonic)
    ceilings: Ceilings = field(default_factory=Ceilings)
    clock: Callable[[], float] = time.perf_counter
    wants_arena: bool = True

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Return the seconds left for all further steps."""
        return self.ends - time.monotonic()

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the precisions that are compared."""
        half = (torch.bfloat16,) if self.is_tiny else (torch.float16, torch.bfloat16)
        return torch.float32, *half

    @property
    def sizes(self) -> Sizes:
        return TINY if self.is_tiny else FULL

    @cached_property
    def config(self) -> VideoXL2Config:
        return self.published if not self.is_tiny else _tiny_shapes(self.published)

    @property
    def published(self) -> VideoXL2Config:
        return VideoXL2Config.published(PUBLISHED)

    @property
    def jpeg(self) -> Jpeg:
        """Return the stills that cameras send."""
        return footage(*self.sizes.still)

    @cached_property
    def work(self) -> "Work":
        """Return the operations of each pass at these shapes."""
        from gpu_steps.work import work_of

        return work_of(self.config)

    @cached_property
    def speaker(self) -> Speaker:
        """Return the model at its size with random weights, whose every answer is no."""
        return speaker_of(quiet(random_model(self.config, self.dtype, self.device)))

    @property
    def total_memory(self) -> int:
        return torch.cuda.get_device_properties(self.device).total_memory

    def need_card(self) -> None:
        """Raise NeedsCard on a CPU."""
        if not self.is_cuda:
            raise NeedsCard

    def sync(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Return how long some work takes until the device has done it."""
        self.sync()
        began = self.clock()
        work()
        self.sync()
        return self.clock() - began

    @cached_property
    def arena_fault(self) -> str:
        """Return how the arena differs from the plain way on this device; empty if it does not."""
        from analyzer.videoxl2.selfcheck import difference_from_plain

        speaker = self.speaker
        with torch.inference_mode():
            return difference_from_plain(speaker.model, speaker.prefix, corrected=False)

    @property
    def uses_arena(self) -> bool:
        return self.wants_arena and not self.arena_fault

    def ms(self, work: Callable[[], object], repeat: int = 5, warm: int = 2) -> float:
        """Return the median milliseconds of some work."""
        for _ in range(warm):
            work()
        took = [self.seconds(work) for _ in range(repeat)]
        return round(1e3 * statistics.median(took), 3)

    def of_gemm(self, flop: float, seconds: float) -> float | None:
        """Return the share of the matrix product's rate, where that was measured in this run."""
        rate = self.ceilings.flop_s
        return round(flop / seconds / rate, 4) if rate and seconds else None

    def of_copy(self, read: float, seconds: float) -> float | None:
        """Return the share of the copy's rate at which some bytes were read."""
        rate = self.ceilings.copy_bytes_s
        return round(read / seconds / rate, 4) if rate and seconds else None

    def clear(self) -> None:
        """Let go of what is no longer used, and measure the peak of memory anew."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Return the most bytes that were held on the card since `clear`."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else None

    def pixels(self, stills: int) -> Tensor:
        """Return random normalised stills (N, 3, H, W)."""
        shape = stills, 3, self.config.height, self.config.width
        return torch.rand(shape, device=self.device).mul_(2).sub_(1).to(self.dtype)

    def write(self, step: str, figures: Figures) -> None:
        """Print a line, and add it to $OUT/figures.jsonl where OUT is set."""
        at = round(time.monotonic() - self.began, 1)
        line = json.dumps({"step": step, "at": at, **figures}, default=str)
        print(line, flush=True)
        if folder := os.environ.get("OUT"):
            with (Path(folder) / "figures.jsonl").open("a") as file:
                file.write(line + "\n")


def giga(size: float | None) -> float | None:
    """Return bytes in GB."""
    return None if size is None else round(size / 1e9, 2)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def keep_stdout_for_figures() -> None:
    """Send warnings of the product to stderr, where its logger is installed."""
    try:
        import structlog
    except ImportError:
        return
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def small_shapes(config: VideoXL2Config) -> VideoXL2Config:
    """Return the same model in small: two layers of tower and decoder, heads as wide as its."""
    tower = {"hidden_size": 288, "intermediate_size": 96, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4, "image_size": 112}
    language = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
    return replace(
        config,
        height=112,
        width=112,
        grid=(8, 8),
        tower={**config.tower, **tower},
        language={**config.language, **language},
    )


def _tiny_shapes(config: VideoXL2Config) -> VideoXL2Config:
    """Return the same with a narrower tower, for a CPU."""
    small = small_shapes(config)
    return replace(small, tower={**small.tower, "hidden_size": 64})


class RandomWeights(Mapping[str, Tensor]):
    """Weights for a model, each made on the device when it is asked for."""

    def __init__(self, model: VideoXL2, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = {reference_name(key): value for key, value in model.state_dict().items()}
        self._dtype, self._device = dtype, device
        self._random = torch.Generator(device).manual_seed(0)

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if not shape.is_floating_point():
            return torch.zeros_like(shape, device=self._device)
        weight = torch.empty(shape.shape, dtype=self._dtype, device=self._device)
        if weight.dim() == 1 and name.endswith(("weight", "running_var")):
            return weight.fill_(1.0)
        return weight.normal_(0, DEVIATION, generator=self._random)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_model(
    config: VideoXL2Config, dtype: torch.dtype, device: torch.device | str
) -> VideoXL2:
    """Return a model whose random weights are made where it runs."""
    model = blank(config)
    load_weights(model, RandomWeights(model, dtype, torch.device(device)), device, dtype)
    return model.eval()


def speaker_of(model: VideoXL2) -> Speaker:
    return Speaker(model, Tokenizer.from_file(str(TOKENIZER)), "random@0")


def quiet(model: VideoXL2) -> VideoXL2:
    """Make every margin 0, which is a no: where no yes begins, nothing is looked at again."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    yes, no = (tokenizer.encode(word, add_special_tokens=False).ids[0] for word in (YES, NO))
    with torch.no_grad():
        head = model.language.decoder.lm_head.weight
        head[yes] = head[no]
    return model


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
        self.again: Callable[[], object] | None = None

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
