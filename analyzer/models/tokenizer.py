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
from analyzer.models.tokenizer_files import (
    ADDED_TOKEN_FILES,
    TOKENIZER_FILE,
    VOCABULARY_FILES,
    tokenizer_files,
)
from analyzer.models.videoxl2.prompt import END, NO, YES

SINGLE_TOKENS = ("<|im_start|>", END)
QWEN2_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen2 parts a text before it looks for pairs of bytes."""


def read_tokenizer(folder: Path, vocabulary: int | None) -> Tokenizer:
    """Read the tokenizer of a model that has this many tokens, where that is known.

    Raises ModelUnusable where it cannot be read, or with every token that it lacks.
    """
    files = tokenizer_files(folder)
    path = folder / files[0]
    try:
        tokenizer = (
            Tokenizer.from_file(str(path)) if files == [TOKENIZER_FILE] else _build_qwen2(folder)
        )
    except ModelUnusable:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelUnusable(f"{path}: cannot be read: {error}") from error
    _check_tokens(tokenizer, path, vocabulary)
    return tokenizer


def _check_tokens(tokenizer: Tokenizer, path: Path, vocabulary: int | None) -> None:
    def ids(word: str) -> list[int]:
        found: list[int] = tokenizer.encode(word, add_special_tokens=False).ids
        return found

    problems = list[str]()
    split_words = [word for word in SINGLE_TOKENS if len(ids(word)) != 1]
    if split_words:
        problems.append(f"{' and '.join(split_words)} must each be one token, and is not")
    if not ids(YES) or not ids(NO) or ids(YES)[0] == ids(NO)[0]:
        problems.append(f"{YES} and {NO} must begin with tokens of their own")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if vocabulary is not None and largest >= vocabulary:
        beyond = f"token {largest} is beyond the {vocabulary} that the model knows"
        problems.append(f"{beyond}: it belongs to another model")
    if problems:
        raise ModelUnusable(f"{path}: {'; '.join(problems)}")


def _build_qwen2(folder: Path) -> Tokenizer:
    """Put together a Qwen2 tokenizer from its vocabulary and its merges."""
    vocab, merges = (str(folder / name) for name in VOCABULARY_FILES)
    tokenizer = Tokenizer(models.BPE.from_file(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_SPLIT_PATTERN), behavior="isolated")
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    for id, token in sorted(_added_tokens(folder).items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != id:
            raise ModelUnusable(
                f"{folder / VOCABULARY_FILES[0]}: leaves no id {id} for {token.content}"
            )
    return tokenizer


def _added_tokens(folder: Path) -> dict[int, AddedToken]:
    """Return the tokens, by id, that are added to the vocabulary."""
    contents = {
        name: json.loads((folder / name).read_bytes()) for name in tokenizer_files(folder)[2:]
    }
    listed: dict[str, dict[str, Any]] = contents.get(ADDED_TOKEN_FILES[0], {}).get(
        "added_tokens_decoder", {}
    )
    if listed:
        return {int(id): AddedToken(**each) for id, each in listed.items()}
    ids_by_text: dict[str, int] = contents.get(ADDED_TOKEN_FILES[1], {})
    return {
        id: AddedToken(text, special=True, normalized=False) for text, id in ids_by_text.items()
    }
