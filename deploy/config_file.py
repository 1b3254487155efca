"""Read the settings file: YAML with `${VAR}`, refused with file, line, key and what to do.

No message shows a value: any of them may be a password.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from deploy.errors import BadSettings
from deploy.settings import DELIMITER, PREFIX, Key, Settings, contradictions

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_QUOTED = re.compile(r" '[^'<]{2,}'")
_MOVED: dict[Key, str] = {("model", "horizon"): "memory.horizon"}
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


Found = Iterable[tuple[Key, str]]
Check = Callable[[Settings], Found]
"""`check(settings)` yields each key whose value cannot be used, and what is wrong."""
Model = TypeVar("Model", bound=BaseModel)


def _nothing(_: BaseModel) -> Found:
    return ()


def read_settings(file: Path, *checks: Check) -> Settings:
    """Return the settings in a file, with the environment's changes; raise BadSettings.

    `checks` are made beside those that need nothing but the settings.
    `LONGWATCH_CAMERAS__DOCK__FPS=2` stands for `cameras: {dock: {fps: 2}}` and wins over the file.
    """
    return SettingsFile.read(file, *checks).settings


def read_file(file: Path, kind: type[Model], check: Callable[[Model], Found] = _nothing) -> Model:
    """Return what a file of another kind says, refused in the same way; no environment."""
    document = _Document.read(file)
    try:
        read = kind.model_validate(document.values)
    except ValidationError as error:
        problems = [
            _located(document, {}, detail["loc"], _told(detail, kind))
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise BadSettings(*problems) from None
    found = [_located(document, {}, key, told) for key, told in check(read)]
    if found:
        raise BadSettings(*found)
    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    """The values of a YAML file, the line on which each key stands, the variables it names."""

    file: Path
    values: dict[str, Any]
    lines: dict[Key, int]
    variables: frozenset[str]

    @classmethod
    def read(cls, file: Path) -> "_Document":
        try:
            loader = yaml.SafeLoader(file.read_bytes())
            node = loader.get_single_node()
            walk = _Walk()
            walk.visit(node, ())
            if walk.problems:
                raise BadSettings(*(_line(file, *problem) for problem in walk.problems))
            values, variables = loader.construct_document(node), frozenset(walk.variables)
            return cls(file=file, values=values, lines=walk.lines, variables=variables)
        except OSError as error:
            told = f"{file}: {error.strerror}: name a settings file that can be read"
            raise BadSettings(told) from None
        except yaml.YAMLError as error:
            raise BadSettings(_syntax(file, error)) from None
        except ValueError as error:
            told = f"{file}: {error}: put what looks like a date or a number in quotes"
            raise BadSettings(told) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Settings as they were read, and where each of them was written; for checks to come."""

    settings: Settings
    document: _Document
    overrides: Mapping[Key, str]

    @classmethod
    def read(cls, file: Path, *checks: Check) -> "SettingsFile":
        """Read a file and the environment's changes, once; raise BadSettings."""
        document, overrides = _Document.read(file), _overrides()
        settings = _validate(document, overrides)
        found = cls(settings=settings, document=document, overrides=overrides)
        found.check(contradictions, *checks)
        settings = settings.model_copy(update={"data": file.resolve().parent / settings.data})
        return replace(found, settings=settings)

    def check(self, *checks: Check) -> None:
        """Raise BadSettings with all that the checks find."""
        problems = [
            _located(self.document, self.overrides, key, told)
            for check in checks
            for key, told in check(self.settings)
        ]
        if problems:
            raise BadSettings(*problems)


class _Walk:
    """Go through the nodes of a file: note lines, expand `${VAR}`, find what YAML lets pass."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {}
        self.problems: list[tuple[int, Key, str]] = []
        self.variables: set[str] = set()
        self._seen: set[int] = set()

    def visit(self, node: yaml.Node | None, key: Key) -> None:
        """Walk a node and all below it."""
        if node is None or (key == () and not isinstance(node, yaml.MappingNode)):
            told = (
                "no settings in it: begin with a key such as `cameras:` (see deploy/example.yaml)"
            )
            self.problems.append((1, (), told))
        elif id(node) not in self._seen:
            self._seen.add(id(node))
            self._enter(node, key)

    def _enter(self, node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, key)
        elif isinstance(node, yaml.SequenceNode):
            for n, item in enumerate(node.value):
                self.lines[*key, n] = _line_of(item)
                self.visit(item, (*key, n))
        elif node.tag == _TEXT:
            node.value = _VARIABLE.sub(lambda found: self._expand(found, node, key), node.value)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> None:
        for name, value in node.value:
            if name.tag not in (_TEXT, _MERGE):
                told = "a key here is not read as text: put it in quotes"
                self.problems.append((_line_of(name), key, told))
                continue
            inner = (*key, name.value)
            if inner in self.lines and name.tag == _TEXT:
                told = f"written twice, first on line {self.lines[inner]}: keep one"
                self.problems.append((_line_of(name), inner, told))
            self.lines.setdefault(inner, _line_of(name))
            self.visit(value, inner)

    def _expand(self, found: re.Match[str], node: yaml.Node, key: Key) -> str:
        escaped, name = found.groups()
        if escaped:
            return found[0][1:]
        if not found[0].endswith("}") or not _VARIABLE_NAME.fullmatch(name):
            told = "write a variable as ${NAME}, and ${ itself as $${"
            self.problems.append((_line_of(node), key, told))
        elif name not in os.environ:
            told = f"the environment has no variable {name}: set it"
            self.problems.append((_line_of(node), key, told))
        self.variables.add(name)
        return os.environ.get(name, "")


def _overrides() -> dict[Key, str]:
    """Return the variables that change settings, by what they change; refuse unknown ones."""
    variables: dict[Key, str] = {
        tuple(name[len(PREFIX) :].lower().split(DELIMITER)): name
        for name in os.environ
        if name.upper().startswith(PREFIX)
    }
    known = list(Settings.model_fields)
    problems = [
        f"{name}: no setting is called so{_meant(str(key[0]), known)}: unset it"
        for key, name in variables.items()
        if key[0] not in known
    ]
    if problems:
        raise BadSettings(*problems)
    return variables


def _validate(document: _Document, overrides: Mapping[Key, str]) -> Settings:
    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, InitSettingsSource(settings_cls, document.values)

    try:
        return Loaded.model_validate({})
    except ValidationError as error:
        problems = [
            _located(document, overrides, detail["loc"], _told(detail))
            for detail in error.errors(include_url=False, include_input=False)
        ]
        raise BadSettings(*problems) from None


def _located(document: _Document, overrides: Mapping[Key, str], key: Key, told: str) -> str:
    """Say where a value comes from, what it is called, and what is wrong with it."""
    key = tuple(part for part in key if part != "[key]")
    for n in range(len(key), 0, -1):
        if key[:n] in overrides:
            return f"{overrides[key[:n]]}: {_dotted(key)}: {told}"
        if key[:n] in document.lines:
            return _line(document.file, document.lines[key[:n]], key, told)
    return _line(document.file, 1, key, told)


def _told(detail: ErrorDetails, root: type[BaseModel] = Settings) -> str:
    key, kind = detail["loc"], detail["type"]
    if not key:
        return f"{PREFIX} variables: one is not the JSON that its place asks for: correct it"
    if kind == "extra_forbidden" and key in _MOVED:
        return f"moved: write it as {_MOVED[key]}"
    if kind == "extra_forbidden":
        known = _keys_beside(key, root)
        return f"unknown key{_meant(str(key[-1]), known)}; known here: {', '.join(known)}"
    if kind == "missing":
        return "missing: add it"
    if key[-1] == "[key]" and kind == "string_pattern_mismatch":
        return "write a name with a-z, 0-9, _ and - only, at most 64 of them"
    message = detail["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _keys_beside(key: Key, root: type[BaseModel]) -> list[str]:
    """Return the keys that are known where this one stands."""
    kind: Any = root
    for part in key[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = {f.alias or n: f.annotation for n, f in kind.model_fields.items()}[str(part)]
        elif get_origin(kind) in (dict, list):
            kind = get_args(kind)[-1]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return [field.alias or name for name, field in kind.model_fields.items()]


def _meant(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def _syntax(file: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{file}: this is not YAML text: save it as UTF-8 text"
    mark = error.problem_mark
    told = "this is not YAML: " + _QUOTED.sub("", str(error.problem))
    line = file.read_text().splitlines()[mark.line : mark.line + 1]
    nested = "expected ',' or '}'" in told and "${" in "".join(line)
    hint = ' (inside { } write "${NAME}" in quotes)' if nested else ""
    return f"{file}:{mark.line + 1}: column {mark.column + 1}: {told}{hint}: correct it"


def _line(file: Path, line: int, key: Key, told: str) -> str:
    return ": ".join(filter(None, [f"{file}:{line}", _dotted(key), told]))


def _line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _dotted(key: Key) -> str:
    """Write a key as `cameras.dock.url`; what cannot be a key may be a value in a wrong place."""
    return ".".join(str(part) if _PLAIN.fullmatch(str(part)) else "?" for part in key)
