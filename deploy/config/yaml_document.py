"""A YAML file as values, with the line of each key, `${VAR}` expanded, and bounds on its size.

A top-level key that begins with `x-` only holds anchors.
No message shows a value: any of them may be a password.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deploy.config.problems import SettingKey, SettingProblem, format_problem
from deploy.errors import BadSettings

MAX_BYTES = 4 * 2**20
"""Bytes of a file."""
MAX_NODES = 100_000
"""Keys and values, counted again for each anchor that repeats them."""
MAX_DEPTH = 32
EXTENSION_PREFIX = "x-"
_MIN_REDACTED_LENGTH = 4
"""A shorter value is not redacted within a longer text."""

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED_VALUE = re.compile(r" '[^'<]{2,}'")
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_TOO_LARGE = "too large, or nested too deep: write it with fewer anchors and brackets"


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlDocument:
    """The values of a YAML file, the line of each key, and the variables that it names.

    `unset` are the keys whose variables cannot be expanded; a reader of such a key refuses it.
    `expanded` are the values of the other variables, by name.
    """

    file: Path
    values: dict[str, Any]
    lines: dict[SettingKey, int]
    unset: tuple[SettingProblem, ...]
    variables: frozenset[str]
    expanded: dict[str, str] = field(repr=False)

    def redact(self, text: str) -> str:
        """Return a text with `${NAME}` instead of each value of a variable: it may be a secret."""
        for name, value in sorted(self.expanded.items(), key=lambda each: -len(each[1])):
            text = text.replace(f"'{value}'", f"'${{{name}}}'")
            if len(value) >= _MIN_REDACTED_LENGTH:
                text = text.replace(value, f"${{{name}}}")
        return text

    @classmethod
    def read(cls, file: Path) -> "YamlDocument":
        """Read a file; raise BadSettings with file, line and what to do."""
        try:
            loader = yaml.SafeLoader(_read_bytes(file))
            node = loader.get_single_node()
            walk = _NodeVisitor()
            walk.visit_root(node)
            if walk.problems:
                raise BadSettings(*(format_problem(file, each) for each in walk.problems))
            values = loader.construct_document(node)
        except yaml.YAMLError as error:
            raise BadSettings(_explain_syntax_error(file, error)) from None
        except RecursionError:
            raise BadSettings(f"{file}: {_TOO_LARGE}") from None
        except ValueError as error:
            message = f"{file}: {error}: put what looks like a date or a number in quotes"
            raise BadSettings(message) from None
        except (LookupError, AttributeError, TypeError):  # of a value that denies its own tag
            message = f"{file}: a value is not what its `!!` tag says: remove the tag"
            raise BadSettings(message) from None
        values = {name: each for name, each in values.items() if not _is_extension(name)}
        return cls(
            file=file,
            values=values,
            lines=walk.lines,
            unset=tuple(walk.unset),
            variables=frozenset(walk.variables),
            expanded={each: os.environ[each] for each in walk.variables if os.environ.get(each)},
        )


def _read_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            read = opened.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"{file}: {error.strerror}: name a settings file that can be read"
        raise BadSettings(message) from None
    if len(read) > MAX_BYTES:
        raise BadSettings(f"{file}: larger than {MAX_BYTES >> 20} MiB: this is no settings file")
    return read


def _is_extension(name: object) -> bool:
    return str(name).startswith(EXTENSION_PREFIX)


class _NodeVisitor:
    """Visit the nodes of a file: note lines, expand `${VAR}`, find errors that YAML allows.

    A node that an anchor repeats is visited each time.
    """

    def __init__(self) -> None:
        self.lines: dict[SettingKey, int] = {}
        self.problems: list[SettingProblem] = []
        self.unset: list[SettingProblem] = []
        self.variables: set[str] = set()
        self._expanded: dict[int, list[str]] = {}
        self._node_count = 0

    def visit_root(self, node: yaml.Node | None) -> None:
        """Visit a whole document; raise RecursionError if it is too large."""
        if isinstance(node, yaml.MappingNode):
            self._visit(node, (), 0)
            return
        message = "no settings in it: begin with a key such as `cameras:` (see deploy/example.yaml)"
        self.problems.append(SettingProblem(line=1, key=(), message=message))

    def _visit(self, node: yaml.Node, key: SettingKey, depth: int) -> None:
        self._node_count += 1
        if depth > MAX_DEPTH or self._node_count > MAX_NODES:
            raise RecursionError
        if isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, key, depth)
        elif isinstance(node, yaml.SequenceNode):
            for n, item in enumerate(node.value):
                self.lines[*key, n] = _line_of(item)
                self._visit(item, (*key, n), depth + 1)
        elif node.tag == _TEXT:
            self._visit_scalar(node, key)

    def _visit_mapping(self, node: yaml.MappingNode, key: SettingKey, depth: int) -> None:
        seen: dict[str, int] = {}
        for name, value in node.value:
            if name.tag == _MERGE:
                continue
            if name.tag != _TEXT:
                message = "a key here is not read as text: put it in quotes"
                self._refuse(name, key, message)
                continue
            inner = (*key, name.value)
            if name.value in seen:
                message = f"written twice, first on line {seen[name.value]}: keep one"
                self._refuse(name, inner, message)
            elif inner not in self.lines:  # else it overrides what is merged
                self.lines[inner] = seen[name.value] = _line_of(name)
                self._visit(value, inner, depth + 1)
        self._visit_merged(node, key, depth)

    def _refuse(self, node: yaml.Node, key: SettingKey, message: str) -> None:
        self.problems.append(SettingProblem(line=_line_of(node), key=key, message=message))

    def _visit_merged(self, node: yaml.MappingNode, key: SettingKey, depth: int) -> None:
        """Visit what is merged into a mapping, except for the keys of the mapping itself."""
        for name, value in node.value:
            if name.tag != _MERGE:
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                self._visit(part, key, depth + 1)

    def _visit_scalar(self, node: yaml.Node, key: SettingKey) -> None:
        if id(node) not in self._expanded:
            found = self._expanded[id(node)] = []
            self.variables |= {each[2] for each in _VARIABLE.finditer(node.value) if not each[1]}
            node.value = _VARIABLE.sub(lambda match: _expand(match, found), node.value)
        line = _line_of(node)
        for message in self._expanded[id(node)]:
            self.unset.append(SettingProblem(line=line, key=key, message=message))


def _expand(match: re.Match[str], problems: list[str]) -> str:
    escaped, name = match.groups()
    if escaped:
        return match[0][1:]
    if not match[0].endswith("}") or not _VARIABLE_NAME.fullmatch(name):
        problems.append("write a variable as ${NAME}, and ${ itself as $${")
    elif name not in os.environ:
        problems.append(f"the environment has no variable {name}: set it")
    return os.environ.get(name, "")


def _explain_syntax_error(file: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{file}: this is not YAML text: save it as UTF-8 text"
    mark = error.problem_mark
    message = "this is not YAML: " + _QUOTED_VALUE.sub("", str(error.problem))
    line = file.read_text().splitlines()[mark.line : mark.line + 1]
    nested = "expected ',' or '}'" in message and "${" in "".join(line)
    hint = ' (inside { } write "${NAME}" in quotes)' if nested else ""
    return f"{file}:{mark.line + 1}: column {mark.column + 1}: {message}{hint}: correct it"


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
