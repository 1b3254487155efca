"""Read settings from a file and the environment; an error names file, line and key.

No message shows a value: any of them may be a password.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType, new_class
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from deploy.config.find import CONFIG_VARIABLE
from deploy.config.problems import (
    SettingKey,
    SettingProblem,
    format_key,
    format_problem,
    is_plain,
    suggestion,
)
from deploy.config.settings import (
    DELIMITER,
    PREFIX,
    DataSettings,
    LongwatchSettings,
    contradictions,
)
from deploy.config.validation_messages import explain_error
from deploy.config.yaml_document import YamlDocument
from deploy.errors import BadSettings

_KUBERNETES_VARIABLE = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?"
    r"(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets beside a Service whose name begins with longwatch."""
_MOVED_KEYS: dict[SettingKey, str] = {("model", "horizon"): "memory.horizon"}

Problems = Iterable[SettingProblem]
SettingsCheck = Callable[[LongwatchSettings], Problems]
"""Yields the settings that cannot be used."""
Model = TypeVar("Model", bound=BaseModel)
Subset = TypeVar("Subset", bound=DataSettings)


def read_settings(file: Path, *checks: SettingsCheck) -> LongwatchSettings:
    """Return the settings in a file, as the environment overrides them; raise BadSettings.

    `LONGWATCH_CAMERAS__DOCK__FPS=2` overrides `cameras: {dock: {fps: 1}}` of the file.
    """
    return SettingsFile.read(file, *checks).settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Settings, and the line or variable that each comes from, for further checks."""

    settings: LongwatchSettings
    source: "_Source"

    @classmethod
    def read(cls, file: Path, *checks: SettingsCheck) -> "SettingsFile":
        """Read a file and the environment, once; raise BadSettings."""
        source = _Source.load(file, LongwatchSettings)
        loaded = cls(settings=_validate(source, LongwatchSettings), source=source)
        loaded.check(contradictions, *checks)
        return loaded

    @property
    def document(self) -> YamlDocument:
        """Return the file without the overrides of the environment."""
        return self.source.document

    @property
    def overrides(self) -> Mapping[SettingKey, str]:
        """Return the variables that override settings, by the key that they override."""
        return self.source.overrides

    def check(self, *checks: SettingsCheck) -> None:
        """Raise BadSettings with all problems that the checks find."""
        self.source.raise_for(self.warnings(*checks))

    def warnings(self, *checks: SettingsCheck) -> list[str]:
        """Return what checks find in settings that can be used, one line each."""
        return self.source.locate_all(check(self.settings) for check in checks)


def read_subset(file: Path, kind: type[Subset], *checks: Callable[[Subset], Problems]) -> Subset:
    """Return what a command needs of a settings file; raise BadSettings.

    No other key is checked, and none of its variables has to be set.
    """
    source = _Source.load(file, kind)
    read = _validate(source, kind)
    source.raise_for(source.locate_all(check(read) for check in checks))
    return read


def read_file(file: Path, kind: type[Model], check: Callable[[Model], Problems]) -> Model:
    """Return the values of a file that holds no settings; raise BadSettings. Reads no variable."""
    source = _Source.load(file, kind, environment=False)
    try:
        read = kind.model_validate(source.document.values)
    except ValidationError as error:
        raise BadSettings(*source.explain(error, kind)) from None
    source.raise_for(source.locate_all([check(read)]))
    return read


def _validate(source: "_Source", kind: type[Subset]) -> Subset:
    try:
        read = _settings_class(kind, source.document.values).model_validate({})
    except ValidationError as error:
        raise BadSettings(*source.explain(error, kind)) from None
    return read.model_copy(update={"data": source.document.file.resolve().parent / read.data})


class _Source:
    """A file and the variables that override it; locates problems in them."""

    def __init__(self, document: YamlDocument, overrides: Mapping[SettingKey, str]) -> None:
        self.document = document
        self.overrides = overrides

    @classmethod
    def load(cls, file: Path, kind: type[BaseModel], *, environment: bool = True) -> "_Source":
        """Read a file; raise BadSettings, also for an unset variable that `kind` needs."""
        document = YamlDocument.read(file)
        unset = [each for each in document.unset if is_read(kind, each.key)]
        if unset:
            raise BadSettings(*(format_problem(file, each) for each in unset))
        return cls(document, _environment_overrides() if environment else {})

    def raise_for(self, problems: list[str]) -> None:
        """Raise BadSettings if there are problems."""
        if problems:
            raise BadSettings(*problems)

    def locate_all(self, problem_sets: Iterable[Problems]) -> list[str]:
        """Return one line for each problem, each once."""
        lines = (self._locate(problem) for problems in problem_sets for problem in problems)
        return list(dict.fromkeys(lines))

    def explain(self, error: ValidationError, kind: type[BaseModel]) -> list[str]:
        """Return one line for each key that the validation refuses."""
        problems: dict[SettingKey, str] = {}
        for detail in error.errors(include_url=False, include_input=False):
            key = self._written_key(detail["loc"])
            problem = SettingProblem(key=key, message=_explain(detail, kind))
            problems.setdefault(key, self._locate(problem))
        return list(dict.fromkeys(problems.values()))

    def _written_key(self, key: SettingKey) -> SettingKey:
        """Return a key as the file has it: without the names of alternatives that were tried."""
        known = {*self.document.lines, *self.overrides}
        while key and not is_plain(key[-1]) and key not in known:
            key = key[:-1]
        return key

    def _locate(self, problem: SettingProblem) -> str:
        """Write a problem with the line or the variable that it comes from, without a value."""
        file, lines, key = self.document.file, self.document.lines, problem.key
        problem = replace(problem, message=self.document.redact(problem.message))
        for n in range(len(key), 0, -1):
            default = _default_key(key[:n])
            if key[:n] in self.overrides:
                return f"{self.overrides[key[:n]]}: {format_key(key)}: {problem.message}"
            if key[:n] in lines:
                return format_problem(file, replace(problem, line=lines[key[:n]]))
            if default in lines:
                located = replace(problem, line=lines[default], key=(*default, *key[n:]))
                return format_problem(file, located)
        return format_problem(file, problem)


def _default_key(key: SettingKey) -> SettingKey:
    """Return the key of the default for a key of a camera."""
    return ("defaults", "cameras", *key[2:]) if key[0] == "cameras" and len(key) > 2 else ()


def _environment_overrides() -> dict[SettingKey, str]:
    """Return the variables that override settings, by key; raise BadSettings for unknown ones."""
    variables: dict[SettingKey, str] = {
        tuple(name[len(PREFIX) :].lower().split(DELIMITER)): name
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and not _is_foreign_variable(name, value)
    }
    known = list(LongwatchSettings.model_fields)
    problems = [
        f"{name}: there is no such setting{suggestion(str(key[0]), known)}: unset it"
        for key, name in variables.items()
        if key[0] not in known
    ]
    if problems:
        raise BadSettings(*problems)
    return variables


def _is_foreign_variable(name: str, value: str) -> bool:
    """Return whether a variable names the settings file, or comes from Kubernetes."""
    if name == CONFIG_VARIABLE or _KUBERNETES_VARIABLE.fullmatch(name):
        return True
    return name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://"))


def _settings_class(kind: type[Subset], values: dict[str, Any]) -> type[Subset]:
    """Return a class of settings that reads these values, overridden by the environment."""

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
    return cast(
        type[Subset], new_class(kind.__name__, (kind,), {}, lambda names: names.update(body))
    )


def _explain(detail: ErrorDetails, root: type[BaseModel]) -> str:
    key, kind = detail["loc"], detail["type"]
    if not key:
        return f"{PREFIX} variables: one does not contain valid JSON: correct it"
    if kind == "extra_forbidden" and key in _MOVED_KEYS:
        return f"moved: write it as {_MOVED_KEYS[key]}"
    if kind == "extra_forbidden":
        known = _sibling_keys(key, root)
        return f"unknown key{suggestion(str(key[-1]), known)}; known here: {', '.join(known)}"
    if key[-1] == "[key]" and kind == "string_pattern_mismatch":
        return "write a name with a-z, 0-9, _ and - only, at most 64 of them"
    return explain_error(detail)


def is_read(kind: Any, key: SettingKey) -> bool:
    """Return whether a class of settings reads the value of a key."""
    for part in key:
        kind = _field_type(kind, part)
        if kind is None:
            return False
    return True


def _field_type(kind: Any, part: str | int) -> Any:
    """Return the type of a key's value; None if settings do not read it."""
    kind = _unwrap_type(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {each.alias or name: each.annotation for name, each in kind.model_fields.items()}
        return fields.get(str(part))
    if get_origin(kind) in (dict, list):
        return get_args(kind)[-1]
    return None if kind is object else kind


def _unwrap_type(kind: Any) -> Any:
    """Return a type without its annotations, and without None."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def _sibling_keys(key: SettingKey, root: type[BaseModel]) -> list[str]:
    """Return the known keys of the section of this one."""
    kind: Any = root
    for part in key[:-1]:
        kind = _field_type(kind, part)
    return [field.alias or name for name, field in _unwrap_type(kind).model_fields.items()]
