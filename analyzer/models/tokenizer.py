"""The tokenizer of a model, read from data alone and refused if it lacks the prompt's tokens."""

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
from analyzer.models.checkpoint.tokenizer_files import (
    ADDED_TOKEN_FILES,
    TOKENIZER_FILE,
    VOCABULARY_FILES,
    tokenizer_files,
)
from analyzer.models.families import FAMILY

SINGLE_TOKENS = ("<|im_start|>", FAMILY.prompt.END)
QWEN2_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 splits a text before it merges pairs of bytes."""


def read_tokenizer(folder: Path, vocabulary: int | None) -> Tokenizer:
    """Read the tokenizer of a model with this many tokens, if that is known.

    Raises ModelUnusable if it cannot be read, or with every token that it lacks.
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


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text, without tokens that the tokenizer would add."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _check_tokens(tokenizer: Tokenizer, path: Path, vocabulary: int | None) -> None:
    problems, yes, no = list[str](), FAMILY.prompt.YES, FAMILY.prompt.NO
    split_words = [word for word in SINGLE_TOKENS if len(token_ids(tokenizer, word)) != 1]
    if split_words:
        problems.append(f"{' and '.join(split_words)} must each be one token, and is not")
    yes_ids, no_ids = token_ids(tokenizer, yes), token_ids(tokenizer, no)
    if not yes_ids or not no_ids or yes_ids[0] == no_ids[0]:
        problems.append(f"{yes} and {no} must begin with different tokens")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if vocabulary is not None and largest >= vocabulary:
        beyond = f"token {largest} is beyond the {vocabulary} that the model knows"
        problems.append(f"{beyond}: it belongs to another model")
    if problems:
        raise ModelUnusable(f"{path}: {'; '.join(problems)}")


def _build_qwen2(folder: Path) -> Tokenizer:
    """Build a Qwen2 tokenizer from its vocabulary and its merges."""
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
