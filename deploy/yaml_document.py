"""A YAML file as values, with the line of each key, `${VAR}` expanded, and bounds on its size.

A top-level key that begins with `x-` holds anchors for others; it is no value.
No message shows a value: any of them may be a password.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import BadSettings
from deploy.settings import Key

LARGEST = 4 * 2**20
"""Bytes of a file."""
MOST_NODES = 100_000
"""Keys and values, each as often as anchors repeat it."""
DEEPEST = 32
EXTENSION = "x-"
_SHORTEST = 4
"""Characters of a value that is recognised within a longer text."""

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r" '[^'<]{2,}'")
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_TOO_LARGE = "too large, or nested too deep: write it with fewer anchors and brackets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one key of a file, and on which line."""

    line: int
    key: Key
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The values of a YAML file, the line of each key, and the variables that it names.

    `unset` are the variables that cannot be expanded: whoever uses such a key has to refuse it.
    `expanded` are the values of the others, by name.
    """

    file: Path
    values: dict[str, Any]
    lines: dict[Key, int]
    unset: tuple[Problem, ...]
    variables: frozenset[str]
    expanded: dict[str, str] = field(repr=False)

    def without_values(self, text: str) -> str:
        """Return a text with `${NAME}` wherever it shows what a variable was expanded to.

        Nobody knows which of them are secrets, and a name may be made of one by mistake.
        """
        for name, value in sorted(self.expanded.items(), key=lambda each: -len(each[1])):
            text = text.replace(f"'{value}'", f"'${{{name}}}'")
            if len(value) >= _SHORTEST:
                text = text.replace(value, f"${{{name}}}")
        return text

    @classmethod
    def read(cls, file: Path) -> "Document":
        """Read a file; raise BadSettings with file, line and what to do."""
        try:
            loader = yaml.SafeLoader(_bytes(file))
            node = loader.get_single_node()
            walk = _Walk()
            walk.visit_root(node)
            if walk.problems:
                raise BadSettings(*(locate(file, each) for each in walk.problems))
            values = loader.construct_document(node)
        except yaml.YAMLError as error:
            raise BadSettings(_syntax(file, error)) from None
        except RecursionError:
            raise BadSettings(f"{file}: {_TOO_LARGE}") from None
        except ValueError as error:
            told = f"{file}: {error}: put what looks like a date or a number in quotes"
            raise BadSettings(told) from None
        except (LookupError, AttributeError, TypeError):  # of a value that denies its own tag
            told = f"{file}: a value is not what its `!!` tag says: remove the tag"
            raise BadSettings(told) from None
        values = {name: each for name, each in values.items() if not _is_extension(name)}
        return cls(
            file=file,
            values=values,
            lines=walk.lines,
            unset=tuple(walk.unset),
            variables=frozenset(walk.variables),
            expanded={each: os.environ[each] for each in walk.variables if os.environ.get(each)},
        )


def locate(file: Path, problem: Problem) -> str:
    """Write a problem as `FILE:LINE: KEY: WHAT`."""
    place = f"{file}:{problem.line}"
    return ": ".join(filter(None, [place, dotted(problem.key), problem.told]))


def dotted(key: Key) -> str:
    """Write a key as `cameras.dock.url`; what cannot be a key may be a value in a wrong place."""
    return ".".join(str(part) if is_plain(part) else "?" for part in key)


def is_plain(part: str | int) -> bool:
    """Return whether a part of a key can be shown: a name of ours, no value."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(part)) is not None


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            read = opened.read(LARGEST + 1)
    except OSError as error:
        told = f"{file}: {error.strerror}: name a settings file that can be read"
        raise BadSettings(told) from None
    if len(read) > LARGEST:
        raise BadSettings(f"{file}: larger than {LARGEST >> 20} MiB: this is no settings file")
    return read


def _is_extension(name: object) -> bool:
    return str(name).startswith(EXTENSION)


class _Walk:
    """Go through the nodes of a file: note lines, expand `${VAR}`, find what YAML lets pass.

    What an anchor repeats is visited wherever it is repeated.
    """

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.problems: list[Problem] = []
        self.unset: list[Problem] = []
        self.variables: set[str] = set()
        self._expanded: dict[int, list[str]] = {}
        self._nodes = 0

    def visit_root(self, node: yaml.Node | None) -> None:
        """Walk a whole document; raise RecursionError where it is too large."""
        if isinstance(node, yaml.MappingNode):
            self._visit(node, (), 0)
            return
        told = "no settings in it: begin with a key such as `cameras:` (see deploy/example.yaml)"
        self.problems.append(Problem(line=1, key=(), told=told))

    def _visit(self, node: yaml.Node, key: Key, depth: int) -> None:
        self._nodes += 1
        if depth > DEEPEST or self._nodes > MOST_NODES:
            raise RecursionError
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, key, depth)
        elif isinstance(node, yaml.SequenceNode):
            for n, item in enumerate(node.value):
                self.lines[*key, n] = _line_of(item)
                self._visit(item, (*key, n), depth + 1)
        elif node.tag == _TEXT:
            self._scalar(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key, depth: int) -> None:
        seen: dict[str, int] = {}
        for name, value in node.value:
            if name.tag == _MERGE:
                continue
            if name.tag != _TEXT:
                told = "a key here is not read as text: put it in quotes"
                self.problems.append(Problem(line=_line_of(name), key=key, told=told))
                continue
            inner = (*key, name.value)
            if name.value in seen:
                told = f"written twice, first on line {seen[name.value]}: keep one"
                self.problems.append(Problem(line=_line_of(name), key=inner, told=told))
            elif inner not in self.lines:  # else it overrides what is merged
                self.lines[inner] = seen[name.value] = _line_of(name)
                self._visit(value, inner, depth + 1)
        self._merged(node, key, depth)

    def _merged(self, node: yaml.MappingNode, key: Key, depth: int) -> None:
        """Walk what is merged into a mapping, but for the keys that the mapping itself has."""
        for name, value in node.value:
            if name.tag != _MERGE:
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                self._visit(part, key, depth + 1)

    def _scalar(self, node: yaml.Node, key: Key) -> None:
        if id(node) not in self._expanded:
            found = self._expanded[id(node)] = []
            self.variables |= {each[2] for each in _VARIABLE.finditer(node.value) if not each[1]}
            node.value = _VARIABLE.sub(lambda match: _expand(match, found), node.value)
        line = _line_of(node)
        self.unset += [Problem(line=line, key=key, told=t) for t in self._expanded[id(node)]]


def _expand(match: re.Match[str], problems: list[str]) -> str:
    escaped, name = match.groups()
    if escaped:
        return match[0][1:]
    if not match[0].endswith("}") or not _VARIABLE_NAME.fullmatch(name):
        problems.append("write a variable as ${NAME}, and ${ itself as $${")
    elif name not in os.environ:
        problems.append(f"the environment has no variable {name}: set it")
    return os.environ.get(name, "")


def _syntax(file: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{file}: this is not YAML text: save it as UTF-8 text"
    mark = error.problem_mark
    told = "this is not YAML: " + _QUOTED.sub("", str(error.problem))
    line = file.read_text().splitlines()[mark.line : mark.line + 1]
    nested = "expected ',' or '}'" in told and "${" in "".join(line)
    hint = ' (inside { } write "${NAME}" in quotes)' if nested else ""
    return f"{file}:{mark.line + 1}: column {mark.column + 1}: {told}{hint}: correct it"


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
