"""Questions with their answers about rendered windows, and the tokenizer they are read with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from numpy.random import Generator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from analyzer.nano.scenes import Kind
from analyzer.nano.words import facts, phrasings
from analyzer.nano.words.facts import VISIBLE, Fact, Known, seen
from analyzer.nano.words.phrasings import CAPTIONS, MANY, NAMES, NEVER, NOTHING, NOWHERE, PLACES
from analyzer.videoxl2 import prompt

__all__ = [
    "NAMES",
    "VISIBLE",
    "Known",
    "Lesson",
    "caption",
    "lessons",
    "make_tokenizer",
    "seen",
    "told",
]
PAD = "<|endoftext|>"

ANYTHING = phrasings.IS[None].seen
ANYTHING_UNSEEN = phrasings.IS[None].unseen
ABOUT: dict[Kind, tuple[str, ...]] = {kind: phrasings.IS[kind].seen for kind in Kind}
ABOUT_UNSEEN: dict[Kind, tuple[str, ...]] = {kind: phrasings.IS[kind].unseen for kind in Kind}


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question, the answer to it at the end of a window, and how much that counts."""

    ask: str
    answer: str
    rarity: float = 1.0


def lessons(
    r: Generator, scene: Known, start: float, end: float, *, offset: float = 0.0, many: int
) -> list[Lesson]:
    """Return `many` yes/no questions at the end of the window from `start` to `end` of a scene.

    A quarter are about the past and about people, the others about events in the window. Half
    of each ask about what is there, as far as there is anything. What is seen too briefly to
    expect an answer is not asked about. The scene starts `offset` seconds into the epoch.
    """
    aside = [*facts.past(r, scene.events, start, end, offset), *facts.counts(r, scene, end)]
    chosen = _choose(r, aside, many // 4)
    chosen += _choose(r, list(facts.now(r, scene.events, start, end)), many - len(chosen))
    return [_lesson(r, fact) for fact in chosen]


def told(
    r: Generator, scene: Known, start: float, end: float, *, offset: float = 0.0, many: int
) -> list[Lesson]:
    """Return `many` questions, or fewer, that are answered in words, like those of `lessons`."""
    every = [
        *facts.when(scene.events, end, offset),
        *facts.where(scene.events, start, end),
        *facts.what(r, scene.events, start, end, offset),
        *facts.how_many(scene, end),
    ]
    return [_lesson(r, fact) for fact in _choose(r, every, many)]


def caption(scene: Known, start: float, end: float) -> str:
    """Tell in a sentence for each event what is seen from `start` to `end`."""
    return facts.caption(scene.events, start, end)


def _lesson(r: Generator, fact: Fact) -> Lesson:
    """Ask for a fact in a phrasing that is trained on; the first ones are asked most often."""
    asks = fact.asks.seen
    ask = asks[int(len(asks) * r.random() ** 2)].format(**fact.slots)
    return Lesson(ask, fact.answer, fact.rarity)


def _choose(r: Generator, facts: Sequence[Fact], many: int) -> list[Fact]:
    """Choose facts by their weights, half of them of what is there as far as there are any."""
    drawn = [(r.exponential() / fact.weight, nth) for nth, fact in enumerate(facts)]
    ranked = [facts[nth] for _, nth in sorted(drawn)]
    there = [fact for fact in ranked if fact.there]
    away = [fact for fact in ranked if not fact.there]
    half = max(ceil(many / 2), many - len(away))
    return [*there[:half], *away[: many - len(there[:half])]]


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
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def texts() -> list[str]:
    """Return all that nano is taught to read and to say, the most frequent repeated."""
    asks = [_filled(ask) for each in phrasings.ALL for ask in each.seen]
    places = [word for place, said in PLACES.items() for word in (place, *said)]
    sentences = [f"{each} {said[0]}." for each in CAPTIONS.values() for said in PLACES.values()]
    answers = [prompt.YES, prompt.NO, NOTHING, NEVER, NOWHERE, MANY, *sentences, *places]
    frame = [prompt.BEFORE, *(prompt.timestamp(t) for t in range(10))]
    return [*(prompt.question(ask) for ask in asks), *[*answers, *frame, "12.0s - 30.5s"] * 10]


def _filled(ask: str) -> str:
    return ask.format(place="", t=0, many=0, start=0.0, end=0.0)
