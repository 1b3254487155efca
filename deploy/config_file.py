"""Read the settings file and the environment, refused with file, line, key and what to do.

No message shows a value: any of them may be a password.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType, new_class
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from deploy.errors import BadSettings
from deploy.plain_words import plain_words
from deploy.settings import DELIMITER, PREFIX, DataSettings, Key, Settings, contradictions
from deploy.yaml_document import Document, Problem, dotted, is_plain, locate

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the settings file where no option does; it is no setting itself."""
_OF_KUBERNETES = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?"
    r"(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets beside a Service whose name begins with longwatch."""
_MOVED: dict[Key, str] = {("model", "horizon"): "memory.horizon"}

Found = Iterable[tuple[Key, str]]
Check = Callable[[Settings], Found]
"""`check(settings)` yields each key whose value cannot be used, and what is wrong."""
Model = TypeVar("Model", bound=BaseModel)
Part = TypeVar("Part", bound=DataSettings)


def _nothing(_: BaseModel) -> Found:
    return ()


def read_settings(file: Path, *checks: Check) -> Settings:
    """Return the settings in a file, with the environment's changes; raise BadSettings.

    `checks` are made beside those that need nothing but the settings.
    `LONGWATCH_CAMERAS__DOCK__FPS=2` stands for `cameras: {dock: {fps: 2}}` and wins over the file.
    """
    return SettingsFile.read(file, *checks).settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Settings as they were read, and where each of them was written; for checks to come."""

    settings: Settings
    source: "_Source"

    @classmethod
    def read(cls, file: Path, *checks: Check) -> "SettingsFile":
        """Read a file and the environment's changes, once; raise BadSettings."""
        source = _Source.of(file, Settings)
        found = cls(settings=_validated(source, Settings), source=source)
        found.check(contradictions, *checks)
        return found

    @property
    def document(self) -> Document:
        """Return the file alone, without the environment's changes."""
        return self.source.document

    @property
    def overrides(self) -> Mapping[Key, str]:
        """Return the variables that change settings, by what they change."""
        return self.source.overrides

    def check(self, *checks: Check) -> None:
        """Raise BadSettings with all that the checks find."""
        self.source.refuse(self.warnings(*checks))

    def warnings(self, *checks: Check) -> list[str]:
        """Return what checks say of settings that are good, located as problems are."""
        return self.source.located(check(self.settings) for check in checks)


def read_part(file: Path, kind: type[Part], *checks: Callable[[Part], Found]) -> Part:
    """Return what a command needs of a settings file; raise BadSettings.

    No other key is checked, and none of its variables has to be set.
    """
    source = _Source.of(file, kind)
    read = _validated(source, kind)
    source.refuse(source.located(check(read) for check in checks))
    return read


def read_file(file: Path, kind: type[Model], check: Callable[[Model], Found] = _nothing) -> Model:
    """Return what a file of another kind says, refused in the same way; no environment."""
    source = _Source.of(file, kind, environment=False)
    try:
        read = kind.model_validate(source.document.values)
    except ValidationError as error:
        raise BadSettings(*source.explained(error, kind)) from None
    source.refuse(source.located([check(read)]))
    return read


def _validated(source: "_Source", kind: type[Part]) -> Part:
    try:
        read = _loader(kind, source.document.values).model_validate({})
    except ValidationError as error:
        raise BadSettings(*source.explained(error, kind)) from None
    return read.model_copy(update={"data": source.document.file.resolve().parent / read.data})


class _Source:
    """A file and the variables that change what it says; finds the place of what is wrong."""

    def __init__(self, document: Document, overrides: Mapping[Key, str]) -> None:
        self.document = document
        self.overrides = overrides

    @classmethod
    def of(cls, file: Path, kind: type[BaseModel], *, environment: bool = True) -> "_Source":
        """Read a file; raise BadSettings for it, and for a variable that `kind` needs."""
        document = Document.read(file)
        unset = [each for each in document.unset if reads(kind, each.key)]
        if unset:
            raise BadSettings(*(locate(file, each) for each in unset))
        return cls(document, _overrides() if environment else {})

    def refuse(self, problems: list[str]) -> None:
        """Raise BadSettings where there are problems."""
        if problems:
            raise BadSettings(*problems)

    def located(self, found: Iterable[Found]) -> list[str]:
        """Say where each problem is, each once."""
        told = (self._locate(key, what) for each in found for key, what in each)
        return list(dict.fromkeys(told))

    def explained(self, error: ValidationError, kind: type[BaseModel]) -> list[str]:
        """Say in plain words what the validation found; of a choice between forms, once."""
        problems: dict[Key, str] = {}
        for detail in error.errors(include_url=False, include_input=False):
            key = self._written(detail["loc"])
            problems.setdefault(key, self._locate(key, _told(detail, kind)))
        return list(dict.fromkeys(problems.values()))

    def _written(self, key: Key) -> Key:
        """Return a key as it is written: without the names of the forms that were tried."""
        known = {*self.document.lines, *self.overrides}
        while key and not is_plain(key[-1]) and key not in known:
            key = key[:-1]
        return key

    def _locate(self, key: Key, told: str) -> str:
        """Say where a value comes from, what it is called, and what is wrong with it."""
        told = self.document.without_values(told)
        for n in range(len(key), 0, -1):
            if key[:n] in self.overrides:
                return f"{self.overrides[key[:n]]}: {dotted(key)}: {told}"
            if key[:n] in self.document.lines:
                line = self.document.lines[key[:n]]
                return locate(self.document.file, Problem(line=line, key=key, told=told))
            default = _default_of(key[:n])
            if default in self.document.lines:
                line, key = self.document.lines[default], (*default, *key[n:])
                return locate(self.document.file, Problem(line=line, key=key, told=told))
        return locate(self.document.file, Problem(line=1, key=key, told=told))


def _default_of(key: Key) -> Key:
    """Return where the default of a camera's key is written."""
    return ("defaults", "cameras", *key[2:]) if key[0] == "cameras" and len(key) > 2 else ()


def _overrides() -> dict[Key, str]:
    """Return the variables that change settings, by what they change; refuse unknown ones."""
    variables: dict[Key, str] = {
        tuple(name[len(PREFIX) :].lower().split(DELIMITER)): name
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and not _is_of_others(name, value)
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


def _is_of_others(name: str, value: str) -> bool:
    """Return whether a variable names the settings file, or comes from Kubernetes."""
    if name == CONFIG_VARIABLE or _OF_KUBERNETES.fullmatch(name):
        return True
    return name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))


def _loader(kind: type[Part], values: dict[str, Any]) -> type[Part]:
    """Return a kind of settings that reads these values, and over them the environment."""

    def sources(
        cls: type[BaseSettings],
        /,
        settings_cls: type[BaseSettings],
        *,
        env_settings: PydanticBaseSettingsSource,
        **_: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, InitSettingsSource(settings_cls, values)

    body = {"settings_customise_sources": classmethod(sources), "__module__": __name__}
    return cast(type[Part], new_class(kind.__name__, (kind,), {}, lambda names: names.update(body)))


def _told(detail: ErrorDetails, root: type[BaseModel]) -> str:
    key, kind = detail["loc"], detail["type"]
    if not key:
        return f"{PREFIX} variables: one is not the JSON that its place asks for: correct it"
    if kind == "extra_forbidden" and key in _MOVED:
        return f"moved: write it as {_MOVED[key]}"
    if kind == "extra_forbidden":
        known = _keys_beside(key, root)
        return f"unknown key{_meant(str(key[-1]), known)}; known here: {', '.join(known)}"
    if key[-1] == "[key]" and kind == "string_pattern_mismatch":
        return "write a name with a-z, 0-9, _ and - only, at most 64 of them"
    return plain_words(detail)


def reads(kind: Any, key: Key) -> bool:
    """Return whether settings of a kind read the value of a key."""
    for part in key:
        kind = _inner(kind, part)
        if kind is None:
            return False
    return True


def _inner(kind: Any, part: str | int) -> Any:
    """Return the kind of what a key holds; None where nobody reads it."""
    kind = _bare(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {each.alias or name: each.annotation for name, each in kind.model_fields.items()}
        return fields.get(str(part))
    if get_origin(kind) in (dict, list):
        return get_args(kind)[-1]
    return None if kind is object else kind


def _bare(kind: Any) -> Any:
    """Return a kind without what annotates it, and without None."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def _keys_beside(key: Key, root: type[BaseModel]) -> list[str]:
    """Return the keys that are known where this one is."""
    kind: Any = root
    for part in key[:-1]:
        kind = _inner(kind, part)
    return [field.alias or name for name, field in _bare(kind).model_fields.items()]


def _meant(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f", did you mean {close[0]}?" if close else ""
