"""Questions with their answers about rendered windows, and the tokenizer they are read with."""

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from analyzer.nano.scenes import Event, Kind
from analyzer.videoxl2 import prompt

PAD = "<|endoftext|>"
VISIBLE = 2.0
"""An event seen for fewer seconds of a window than this is not asked about."""

ANYTHING = (
    "Is anything unusual happening?",
    "Is there any anomaly?",
    "Does anything here need attention?",
    "Is something wrong in this scene?",
)
ABOUT: dict[Kind, tuple[str, ...]] = {
    Kind.FALL: (
        "Has someone fallen?",
        "Is a person lying on the ground?",
        "Did anybody fall down?",
    ),
    Kind.FIGHT: (
        "Is there a fight?",
        "Are people fighting?",
        "Is someone hitting another person?",
    ),
    Kind.INTRUSION: (
        "Is someone in the restricted zone?",
        "Is a person inside the marked area?",
        "Did somebody enter the zone?",
    ),
    Kind.ABANDONED: (
        "Is there an abandoned bag?",
        "Is there a bag that nobody is with?",
        "Did someone leave luggage behind?",
    ),
    Kind.FIRE: (
        "Is there a fire?",
        "Is there fire or smoke?",
        "Is something burning?",
    ),
    Kind.WRONG_WAY: (
        "Is a vehicle driving the wrong way?",
        "Is a car going against the traffic?",
        "Does a vehicle drive against the arrows?",
    ),
    Kind.CROWD: (
        "Is there a crowd?",
        "Has a crowd gathered?",
        "Are many people standing together?",
    ),
}


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question about one window and whether the answer is yes."""

    ask: str
    yes: bool


def seen(events: tuple[Event, ...], start: float, end: float) -> dict[Kind, float]:
    """Return for how many seconds of a window each kind of event could be seen."""
    seconds: dict[Kind, float] = {}
    for event in events:
        shared = min(event.end, end) - max(event.start, start)
        if shared > 0:
            seconds[event.kind] = seconds.get(event.kind, 0) + shared
    return seconds


def lessons(
    r: Generator, events: tuple[Event, ...], start: float, end: float, many: int
) -> Iterator[Lesson]:
    """Yield `many` questions about the window from `start` to `end` of a scene.

    Half ask about events that are there, as far as there are any. What is seen too briefly
    to expect an answer is not asked about.
    """
    seconds = seen(events, start, end)
    present = [kind for kind, s in seconds.items() if s >= VISIBLE]
    absent = [kind for kind in Kind if kind not in seconds]
    if present or not seconds:
        for ask in r.choice(ANYTHING, 2, replace=False):
            yield Lesson(str(ask), bool(present))
            many -= 1
    r.shuffle(absent)
    for kind in (present + [Kind(k) for k in absent])[:many]:
        yield Lesson(str(r.choice(ABOUT[kind])), kind in present)


def make_tokenizer(vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE on the lessons; like Qwen's, it keeps digits apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[[:alpha:]]+|[^[:alnum:]\s]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, "<|im_start|>", prompt.END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    asks = [ask for asks in (ANYTHING, *ABOUT.values()) for ask in asks]
    words = [prompt.question(ask) for ask in asks]
    texts = [
        prompt.BEFORE,
        prompt.YES,
        prompt.NO,
        *words,
        *(prompt.timestamp(t) for t in range(10)),
    ]
    tokenizer.train_from_iterator(texts * 4, trainer)
    return tokenizer
