"""The tokenizer of a model: read from data alone, and refused where it lacks our words."""

import json
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from analyzer.errors import ModelUnusable
from analyzer.videoxl2.prompt import END, NO, YES

WHOLE = "tokenizer.json"
PARTS = ("vocab.json", "merges.txt")
ADDED = ("tokenizer_config.json", "added_tokens.json")
"""Where the tokens stand that are not in `vocab.json`; the first that lists any counts."""
SINGLE = ("<|im_start|>", END)
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 parts a text before it looks for pairs of bytes."""


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names of the files that make the tokenizer; raises ModelUnusable."""
    if (folder / WHOLE).is_file():
        return [WHOLE]
    missing = [name for name in PARTS if not (folder / name).is_file()]
    if missing:
        raise ModelUnusable(f"{folder}: no {WHOLE}, and no {' and no '.join(missing)} either")
    return [*PARTS, *(name for name in ADDED if (folder / name).is_file())]


def read_tokenizer(folder: Path, vocabulary: int | None) -> Tokenizer:
    """Read the tokenizer of a model that has this many tokens, where that is known.

    Raises ModelUnusable where it cannot be read, or with every token that it lacks.
    """
    files = tokenizer_files(folder)
    path = folder / files[0]
    try:
        tokenizer = Tokenizer.from_file(str(path)) if files == [WHOLE] else _qwen2(folder)
    except ModelUnusable:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelUnusable(f"{path}: cannot be read: {error}") from error
    _check(tokenizer, path, vocabulary)
    return tokenizer


def _check(tokenizer: Tokenizer, path: Path, vocabulary: int | None) -> None:
    def ids(word: str) -> list[int]:
        found: list[int] = tokenizer.encode(word, add_special_tokens=False).ids
        return found

    wrong = list[str]()
    parted = [word for word in SINGLE if len(ids(word)) != 1]
    if parted:
        wrong.append(f"{' and '.join(parted)} must each be one token, and is not")
    if not ids(YES) or not ids(NO) or ids(YES)[0] == ids(NO)[0]:
        wrong.append(f"{YES} and {NO} must begin with tokens of their own")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if vocabulary is not None and largest >= vocabulary:
        beyond = f"token {largest} is beyond the {vocabulary} that the model knows"
        wrong.append(f"{beyond}: it belongs to another model")
    if wrong:
        raise ModelUnusable(f"{path}: {'; '.join(wrong)}")


def _qwen2(folder: Path) -> Tokenizer:
    """Put together a Qwen2 tokenizer from its vocabulary and its merges."""
    vocab, merges = (str(folder / name) for name in PARTS)
    tokenizer = Tokenizer(models.BPE.from_file(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    for id, token in sorted(_added(folder).items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != id:
            raise ModelUnusable(f"{folder / PARTS[0]}: leaves no id {id} for {token.content}")
    return tokenizer


def _added(folder: Path) -> dict[int, AddedToken]:
    """Return the tokens, by id, that are added to the vocabulary."""
    read = {name: json.loads((folder / name).read_bytes()) for name in tokenizer_files(folder)[2:]}
    told: dict[str, dict[str, Any]] = read.get(ADDED[0], {}).get("added_tokens_decoder", {})
    if told:
        return {int(id): AddedToken(**each) for id, each in told.items()}
    plain: dict[str, int] = read.get(ADDED[1], {})
    return {id: AddedToken(text, special=True, normalized=False) for text, id in plain.items()}
