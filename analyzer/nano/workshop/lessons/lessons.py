"""Questions with their answers about rendered windows, and the tokenizer they are read with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from numpy.random import Generator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.lessons import facts, phrasings
from analyzer.nano.workshop.lessons.facts import (
    Fact,
    KnownScene,
)
from analyzer.nano.workshop.lessons.phrasings import (
    CAPTIONS,
    MANY,
    NEVER,
    NOTHING,
    NOWHERE,
    PLACES,
)
from analyzer.nano.workshop.renderer.events import EventKind

PAD = "<|endoftext|>"

ANOMALY_ASKS = phrasings.IS[None].seen
UNSEEN_ANOMALY_ASKS = phrasings.IS[None].unseen
KIND_ASKS: dict[EventKind, tuple[str, ...]] = {kind: phrasings.IS[kind].seen for kind in EventKind}
UNSEEN_KIND_ASKS: dict[EventKind, tuple[str, ...]] = {
    kind: phrasings.IS[kind].unseen for kind in EventKind
}


@dataclass(frozen=True, slots=True)
class Lesson:
    """A question, the answer to it at the end of a window, and how much that counts."""

    ask: str
    answer: str
    rarity: float = 1.0


def yes_no_lessons(
    r: Generator, scene: KnownScene, start: float, end: float, *, offset: float = 0.0, count: int
) -> list[Lesson]:
    """Return `many` yes/no questions at the end of the window from `start` to `end` of a scene.

    A quarter are about the past and about people, the others about events in the window. Half of
    each are about present subjects, if there are any. Events visible too briefly are not asked
    about. The scene starts `offset` seconds into the epoch.
    """
    aside = [
        *facts.past_facts(r, scene.events, start, end, offset),
        *facts.people_facts(r, scene, end),
    ]
    chosen = _choose(r, aside, count // 4)
    chosen += _choose(r, list(facts.window_facts(r, scene.events, start, end)), count - len(chosen))
    return [_lesson(r, fact) for fact in chosen]


def worded_lessons(
    r: Generator, scene: KnownScene, start: float, end: float, *, offset: float = 0.0, count: int
) -> list[Lesson]:
    """Return `many` questions, or fewer, that are answered in words, like those of `lessons`."""
    every = [
        *facts.when_facts(scene.events, end, offset),
        *facts.where_facts(scene.events, start, end),
        *facts.what_facts(r, scene.events, start, end, offset),
        *facts.people_count_facts(scene, end),
    ]
    return [_lesson(r, fact) for fact in _choose(r, every, count)]


def caption(scene: KnownScene, start: float, end: float) -> str:
    """Tell in a sentence for each event what is seen from `start` to `end`."""
    return facts.caption(scene.events, start, end)


def _lesson(r: Generator, fact: Fact) -> Lesson:
    """Ask for a fact in a phrasing that is trained on; the first ones are asked most often."""
    asks = fact.asks.seen
    ask = asks[int(len(asks) * r.random() ** 2)].format(**fact.slots)
    return Lesson(ask, fact.answer, fact.rarity)


def _choose(r: Generator, facts: Sequence[Fact], count: int) -> list[Fact]:
    """Draw facts by their weights, half of them about present subjects if there are any."""
    drawn = [(r.exponential() / fact.weight, nth) for nth, fact in enumerate(facts)]
    ranked = [facts[nth] for _, nth in sorted(drawn)]
    there = [fact for fact in ranked if fact.is_present]
    away = [fact for fact in ranked if not fact.is_present]
    half = max(ceil(count / 2), count - len(away))
    return [*there[:half], *away[: count - len(there[:half])]]


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
    """Return all texts that nano learns to read and write, frequent ones repeated."""
    asks = [_with_empty_slots(ask) for each in phrasings.ALL for ask in each.seen]
    places = [word for place, said in PLACES.items() for word in (place, *said)]
    sentences = [f"{each} {said[0]}." for each in CAPTIONS.values() for said in PLACES.values()]
    answers = [prompt.YES, prompt.NO, NOTHING, NEVER, NOWHERE, MANY, *sentences, *places]
    frame = [prompt.PREFIX, *(prompt.timestamp(t) for t in range(10))]
    return [*(prompt.question_text(ask) for ask in asks), *[*answers, *frame, "12.0s - 30.5s"] * 10]


def _with_empty_slots(ask: str) -> str:
    return ask.format(place="", t=0, many=0, start=0.0, end=0.0)
