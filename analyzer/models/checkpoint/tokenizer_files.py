"""The names of the files that make a tokenizer."""

from pathlib import Path

from analyzer.errors import ModelUnusable

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt")
ADDED_TOKEN_FILES = ("tokenizer_config.json", "added_tokens.json")
"""Where the tokens stand that are not in `vocab.json`; the first that lists any counts."""


def tokenizer_files(folder: Path) -> list[str]:
    """Return the names of the files that make the tokenizer; raises ModelUnusable."""
    if (folder / TOKENIZER_FILE).is_file():
        return [TOKENIZER_FILE]
    missing = [name for name in VOCABULARY_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelUnusable(
            f"{folder}: no {TOKENIZER_FILE}, and no {' and no '.join(missing)} either"
        )
    return [*VOCABULARY_FILES, *(name for name in ADDED_TOKEN_FILES if (folder / name).is_file())]
