"""Whether the card says what the CPU says: nano's margins through the whole Watcher."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from analyzer.kv.budget import MemoryPlan
from analyzer.models.loading import load_model
from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.config import VideoXL2Config
from bench.gpu_steps.bench import Bench, Figures, named
from bench.gpu_steps.footage import footage
from bench.gpu_steps.model import random_model, runner_of, small_shapes
from bench.gpu_steps.site import QUESTIONS, STILLS, Site, plan_for

ASKED = QUESTIONS[:3]
SEEN, RECENT = 4, 2
LANES = 2
KERNELS: dict[str, Sequence[SDPBackend]] = {
    "as torch chooses": (),
    "cuDNN": (SDPBackend.CUDNN_ATTENTION,),
    "flash": (SDPBackend.FLASH_ATTENTION,),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION,),
    "math": (SDPBackend.MATH,),
}
ON_A_CPU = {name: KERNELS[name] for name in ("as torch chooses", "math")}
CANNOT_BE_VIEWED = "cannot be viewed"
WIDTH, HEIGHT = 192, 128


class Nano:
    """The model that ships, once in each precision; `device` is where it is compared."""

    def __init__(self, bench: Bench) -> None:
        self._device = str(bench.device)
        self._loaded: dict[tuple[str, torch.dtype], ModelRunner] = {}

    def plain(self, plan: MemoryPlan) -> ModelRunner:
        """Return it in float32 on the CPU."""
        return self._of("cpu", torch.float32, plan)

    def compared(self, dtype: torch.dtype, plan: MemoryPlan) -> ModelRunner:
        """Return it on the device in a precision."""
        return self._of(self._device, dtype, plan)

    def _of(self, device: str, dtype: torch.dtype, plan: MemoryPlan) -> ModelRunner:
        key = device, dtype
        if key not in self._loaded:
            self._loaded[key] = load_model("nano", device, named(dtype))
        self._loaded[key].proportional_attention = plan.proportional_attention
        return self._loaded[key]


def plans(windows: int, recent: int, is_tiny: bool) -> dict[str, MemoryPlan]:
    """Return plans under which every form of a chunk is read."""
    changes: dict[str, dict[str, Any]] = {
        "pooled": {},
        "focused": {"focus": 2},
        "corrected": {"focus": 2, "proportional_attention": True},
        "int8": {"focus": 2, "int8": True},
        "corrected int8": {"focus": 2, "proportional_attention": True, "int8": True},
    }
    chosen = ("pooled", "corrected int8") if is_tiny else tuple(changes)
    return {name: plan_for(windows, recent, **changes[name]) for name in chosen}


def nano(bench: Bench) -> Figures:
    """Compare nano's margins on this device with float32 on the CPU, from JPEG bytes."""
    jpeg, model = footage(WIDTH, HEIGHT, 8), Nano(bench)
    figures: Figures = {}
    for name, plan in plans(SEEN, RECENT, bench.is_tiny).items():
        if name == "focused":
            continue
        with Site(model.plain(plan), plan, questions=ASKED, jpeg=jpeg) as site:
            want = _margins(site, SEEN)
        for dtype in bench.dtypes:
            runner = model.compared(dtype, plan)
            with Site(runner, plan, questions=ASKED, jpeg=jpeg, arena=bench.wants_arena) as site:
                figures[f"{name} {named(dtype)}"] = _apart(_margins(site, SEEN), want)
    return figures


def rolling(bench: Bench) -> Figures:
    """Compare memories that pool, focus and forget with the plain path, float32 on the CPU.

    Vision is left out: both read the same visual tokens. `moved` says by how much a form of the
    memory moves the margins, so that one that did nothing would show.
    """
    windows, model, usual = bench.sizes.rolling, Nano(bench), plan_for(4, 4)
    tokens = _tokens(model.plain(usual), windows)
    figures, pooled = Figures(), torch.zeros(0)
    for name, plan in plans(windows - 2, 4, bench.is_tiny).items():
        want = _blind(model.plain(plan), plan, tokens)
        pooled = want if name == "pooled" else pooled
        figures[name] = {
            named(dtype): _apart(
                _blind(model.compared(dtype, plan), plan, tokens, bench.wants_arena), want
            )
            for dtype in bench.dtypes
        }
        figures[name]["moved"] = _apart(want, pooled)
    return figures


def kernels(bench: Bench) -> Figures:
    """Let each of torch's attention kernels serve every attention of the model.

    Heads are as wide as the published ones. Compares margins with float32 on the CPU.
    """
    config, plan = small_shapes(bench.published), plan_for(4, 2)
    plain = runner_of(random_model(config, torch.float32, "cpu"))
    state, tokens = plain.model.state_dict(), _random_tokens(config)
    want, figures = _blind(plain, plan, tokens), Figures()
    for dtype in bench.dtypes:
        model = random_model(config, dtype, bench.device)
        model.load_state_dict(state)
        runner = runner_of(model)
        for name, chosen in (KERNELS if bench.is_cuda else ON_A_CPU).items():
            found = _under(chosen, runner, plan, tokens)
            off = found if isinstance(found, str) else _apart(found, want)
            figures[f"{named(dtype)} {name}"] = off
        in_arena = _apart(_blind(runner, plan, tokens, bench.wants_arena), want)
        figures[f"{named(dtype)} arena"] = in_arena
    refused = [each for each in figures.values() if CANNOT_BE_VIEWED in str(each)]
    return {"view_errors": len(refused), **figures}


def _under(
    kernels: Sequence[SDPBackend], runner: ModelRunner, plan: MemoryPlan, tokens: Sequence[Tensor]
) -> Tensor | str:
    """Return the margins with only these kernels, or why they cannot be had.

    Vision may fall back to plain products: its synthesis has wider heads than most kernels take.
    """
    try:
        with _allowing([*kernels, SDPBackend.MATH] if kernels else []), torch.inference_mode():
            config, weight = runner.model.config, next(runner.model.parameters())
            runner.model.encode(weight.new_zeros(STILLS, 3, config.height, config.width))
        with _allowing(kernels):
            return _blind(runner, plan, tokens)
    except Exception as error:  # noqa: BLE001  a kernel that fails is a figure, too
        found = CANNOT_BE_VIEWED if "view size" in str(error) else "not to be had"
        return f"{found}: {str(error).splitlines()[0][:100]}"


def _allowing(kernels: Sequence[SDPBackend]) -> AbstractContextManager[object]:
    """Let torch choose among these, the first first, or among all where there are none."""
    return sdpa_kernel(list(kernels), set_priority=True) if kernels else nullcontext()


def _tokens(runner: ModelRunner, windows: int) -> list[Tensor]:
    """Return the visual tokens of windows, as the memory keeps them."""
    with Site(runner, plan_for(windows + 1, 1), jpeg=footage(WIDTH, HEIGHT, 8)) as site:
        site.fill(windows)
        return [chunk.tokens_GVE for chunk in site.memory().chunks]


def _random_tokens(config: VideoXL2Config) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    shape = 4, config.tokens_per_group, config.language["hidden_size"]
    return [torch.randn(shape, generator=random) * 0.02 for _ in range(6)]


def _blind(
    runner: ModelRunner, plan: MemoryPlan, tokens: Sequence[Tensor], arena: bool = False
) -> Tensor:
    shown = [each.to(next(runner.model.parameters()).dtype) for each in tokens]
    options: dict[str, Any] = {"lanes": LANES, "questions": ASKED, "tokens": shown, "spare": LANES}
    with Site(runner, plan, arena=arena, **options) as site:
        early = plan.recent + 1
        _margins(site, early)  # nothing is pooled yet
        return _margins(site, len(tokens) - early)


def _margins(site: Site, windows: int) -> Tensor:
    return torch.tensor([f.margin for batch in site.batches(windows) for f in site.step(batch)])


def _apart(ours: Tensor, want: Tensor) -> float:
    """Return the largest difference; not a number where an answer is missing."""
    if ours.shape != want.shape:
        return float("nan")
    return round(float((ours - want).abs().max()), 6)
