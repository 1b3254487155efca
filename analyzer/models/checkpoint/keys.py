"""The keys of a checkpoint compared with those of a model: used, unused, missing, wrong."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from analyzer.models.checkpoint.shards import ITEM_BYTES, TensorEntry

QUANTISED_REFUSAL = "quantised weights are not supported: take the one in bfloat16 or float16"
MAX_KEYS_NAMED = 5
"""How many keys of each kind an error names."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_QUANTISED_KEY = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_packed|weight_scale(_inv|_2)?|weight_shape"
    r"|input_scale|SCB|weight\.(absmax|quant_map|quant_state\..*|nested_.*))"
)
"""What GPTQ, AWQ, compressed-tensors, FP8 and bitsandbytes call their parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTensor:
    """One weight that a model has."""

    shape: tuple[int, ...]
    is_float: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCheck:
    """The keys of a checkpoint compared with those of a model, sorted by name.

    `unused` maps each key that the model never uses to its kind; entries of `misshapen` and
    `quantised` say what the key is.
    """

    used: int
    unused: Mapping[str, str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Sequence[str]
    quantised: Sequence[str]

    @property
    def note(self) -> str | None:
        """Return one line about accepted keys that are not used, None if there are none."""
        if not self.unused:
            return None
        kinds = Counter(self.unused.values())
        count = "1 key is" if len(self.unused) == 1 else f"{len(self.unused)} keys are"
        summary = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
        return f"{count} not used: {summary}"

    @property
    def problems(self) -> list[str]:
        """Return one text for each kind of fault; none if the checkpoint fits."""
        quantised = _summarise("quantised", self.quantised)
        return [
            *_summarise("missing", self.missing),
            *_summarise("of another shape", self.misshapen),
            *(f"{each}: {QUANTISED_REFUSAL}" for each in quantised),
            *_summarise("not expected", self.unexpected),
        ]


def check_keys(
    expected: Mapping[str, ExpectedTensor],
    found: Mapping[str, TensorEntry],
    unused_kind: Callable[[str], str | None],
    is_optional: Callable[[str], bool],
) -> KeyCheck:
    """Compare the keys of a checkpoint with the weights of a model."""
    extra = sorted(found.keys() - expected.keys())
    unused = {key: kind for key in extra if (kind := unused_kind(key))}
    quantised = [key for key in sorted(found) if _is_quantised(key, expected, found[key])]
    shared = [key for key in sorted(expected.keys() & found.keys()) if key not in quantised]
    missing = sorted(key for key in expected.keys() - found.keys() if not is_optional(key))
    return KeyCheck(
        used=len(expected.keys() & found.keys()),
        unused=unused,
        missing=missing,
        unexpected=[key for key in extra if key not in unused and key not in quantised],
        misshapen=[
            reason for key in shared if (reason := _mismatch(key, expected[key], found[key]))
        ],
        quantised=[f"{key} is {found[key].dtype}" for key in quantised],
    )


def used_parameters(
    found: Mapping[str, TensorEntry], unused_kind: Callable[[str], str | None]
) -> int:
    """Return how many numbers of a checkpoint a model uses."""
    return sum(each.element_count for key, each in found.items() if not unused_kind(key))


def _is_quantised(key: str, expected: Mapping[str, ExpectedTensor], entry: TensorEntry) -> bool:
    if key in expected:
        return expected[key].is_float and entry.dtype not in FLOATS
    return _QUANTISED_KEY.fullmatch(key) is not None


def _mismatch(key: str, expected: ExpectedTensor, found: TensorEntry) -> str | None:
    if found.shape != expected.shape:
        return f"{key} is {list(found.shape)}, the configuration says {list(expected.shape)}"
    if not expected.is_float and (found.dtype in FLOATS or found.dtype not in ITEM_BYTES):
        return f"{key} is {found.dtype}, not whole numbers"
    return None


def _summarise(what: str, keys: Iterable[str]) -> list[str]:
    """Return at most one text, which counts keys and names the first."""
    listed = list(keys)
    more = ", ..." if len(listed) > MAX_KEYS_NAMED else ""
    return [f"{len(listed)} {what} ({', '.join(listed[:MAX_KEYS_NAMED])}{more})"] if listed else []
