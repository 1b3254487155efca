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

from deploy.config.settings import (
    DELIMITER,
    PREFIX,
    DataSettings,
    LongwatchSettings,
    SettingKey,
    contradictions,
)
from deploy.config.validation_messages import explain_error
from deploy.config.yaml_document import (
    SettingProblem,
    YamlDocument,
    format_key,
    format_problem,
    is_plain,
)
from deploy.errors import BadSettings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the settings file where no option does; it is no setting itself."""
_KUBERNETES_VARIABLE = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?"
    r"(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets beside a Service whose name begins with longwatch."""
_MOVED_KEYS: dict[SettingKey, str] = {("model", "horizon"): "memory.horizon"}

Problems = Iterable[tuple[SettingKey, str]]
SettingsCheck = Callable[[LongwatchSettings], Problems]
"""`check(settings)` yields each key whose value cannot be used, and what is wrong."""
Model = TypeVar("Model", bound=BaseModel)
Subset = TypeVar("Subset", bound=DataSettings)


def _no_problems(_: BaseModel) -> Problems:
    return ()


def read_settings(file: Path, *checks: SettingsCheck) -> LongwatchSettings:
    """Return the settings in a file, with the environment's changes; raise BadSettings.

    `checks` are made beside those that need nothing but the settings.
    `LONGWATCH_CAMERAS__DOCK__FPS=2` stands for `cameras: {dock: {fps: 2}}` and wins over the file.
    """
    return SettingsFile.read(file, *checks).settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """Settings as they were read, and where each of them was written; for checks to come."""

    settings: LongwatchSettings
    source: "_Source"

    @classmethod
    def read(cls, file: Path, *checks: SettingsCheck) -> "SettingsFile":
        """Read a file and the environment's changes, once; raise BadSettings."""
        source = _Source.load(file, LongwatchSettings)
        loaded = cls(settings=_validate(source, LongwatchSettings), source=source)
        loaded.check(contradictions, *checks)
        return loaded

    @property
    def document(self) -> YamlDocument:
        """Return the file alone, without the environment's changes."""
        return self.source.document

    @property
    def overrides(self) -> Mapping[SettingKey, str]:
        """Return the variables that change settings, by what they change."""
        return self.source.overrides

    def check(self, *checks: SettingsCheck) -> None:
        """Raise BadSettings with all that the checks find."""
        self.source.raise_for(self.warnings(*checks))

    def warnings(self, *checks: SettingsCheck) -> list[str]:
        """Return what checks say of settings that are good, located as problems are."""
        return self.source.locate_all(check(self.settings) for check in checks)


def read_subset(file: Path, kind: type[Subset], *checks: Callable[[Subset], Problems]) -> Subset:
    """Return what a command needs of a settings file; raise BadSettings.

    No other key is checked, and none of its variables has to be set.
    """
    source = _Source.load(file, kind)
    read = _validate(source, kind)
    source.raise_for(source.locate_all(check(read) for check in checks))
    return read


def read_file(
    file: Path, kind: type[Model], check: Callable[[Model], Problems] = _no_problems
) -> Model:
    """Return what a file of another kind says, refused in the same way; no environment."""
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
    """A file and the variables that change what it says; finds the place of what is wrong."""

    def __init__(self, document: YamlDocument, overrides: Mapping[SettingKey, str]) -> None:
        self.document = document
        self.overrides = overrides

    @classmethod
    def load(cls, file: Path, kind: type[BaseModel], *, environment: bool = True) -> "_Source":
        """Read a file; raise BadSettings for it, and for a variable that `kind` needs."""
        document = YamlDocument.read(file)
        unset = [each for each in document.unset if is_read(kind, each.key)]
        if unset:
            raise BadSettings(*(format_problem(file, each) for each in unset))
        return cls(document, _environment_overrides() if environment else {})

    def raise_for(self, problems: list[str]) -> None:
        """Raise BadSettings where there are problems."""
        if problems:
            raise BadSettings(*problems)

    def locate_all(self, problem_sets: Iterable[Problems]) -> list[str]:
        """Say where each problem is, each once."""
        message = (self._locate(key, what) for each in problem_sets for key, what in each)
        return list(dict.fromkeys(message))

    def explain(self, error: ValidationError, kind: type[BaseModel]) -> list[str]:
        """Say in plain words what the validation found; of a choice between forms, once."""
        problems: dict[SettingKey, str] = {}
        for detail in error.errors(include_url=False, include_input=False):
            key = self._written_key(detail["loc"])
            problems.setdefault(key, self._locate(key, _explain(detail, kind)))
        return list(dict.fromkeys(problems.values()))

    def _written_key(self, key: SettingKey) -> SettingKey:
        """Return a key as it is written: without the names of the forms that were tried."""
        known = {*self.document.lines, *self.overrides}
        while key and not is_plain(key[-1]) and key not in known:
            key = key[:-1]
        return key

    def _locate(self, key: SettingKey, message: str) -> str:
        """Say where a value comes from, what it is called, and what is wrong with it."""
        message = self.document.redact(message)
        for n in range(len(key), 0, -1):
            if key[:n] in self.overrides:
                return f"{self.overrides[key[:n]]}: {format_key(key)}: {message}"
            if key[:n] in self.document.lines:
                line = self.document.lines[key[:n]]
                return format_problem(
                    self.document.file, SettingProblem(line=line, key=key, message=message)
                )
            default = _default_key(key[:n])
            if default in self.document.lines:
                line, key = self.document.lines[default], (*default, *key[n:])
                return format_problem(
                    self.document.file, SettingProblem(line=line, key=key, message=message)
                )
        return format_problem(self.document.file, SettingProblem(line=1, key=key, message=message))


def _default_key(key: SettingKey) -> SettingKey:
    """Return where the default of a camera's key is written."""
    return ("defaults", "cameras", *key[2:]) if key[0] == "cameras" and len(key) > 2 else ()


def _environment_overrides() -> dict[SettingKey, str]:
    """Return the variables that change settings, by what they change; refuse unknown ones."""
    variables: dict[SettingKey, str] = {
        tuple(name[len(PREFIX) :].lower().split(DELIMITER)): name
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX) and not _is_foreign_variable(name, value)
    }
    known = list(LongwatchSettings.model_fields)
    problems = [
        f"{name}: no setting is called so{_suggestion(str(key[0]), known)}: unset it"
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
    return cast(
        type[Subset], new_class(kind.__name__, (kind,), {}, lambda names: names.update(body))
    )


def _explain(detail: ErrorDetails, root: type[BaseModel]) -> str:
    key, kind = detail["loc"], detail["type"]
    if not key:
        return f"{PREFIX} variables: one is not the JSON that its place asks for: correct it"
    if kind == "extra_forbidden" and key in _MOVED_KEYS:
        return f"moved: write it as {_MOVED_KEYS[key]}"
    if kind == "extra_forbidden":
        known = _sibling_keys(key, root)
        return f"unknown key{_suggestion(str(key[-1]), known)}; known here: {', '.join(known)}"
    if key[-1] == "[key]" and kind == "string_pattern_mismatch":
        return "write a name with a-z, 0-9, _ and - only, at most 64 of them"
    return explain_error(detail)


def is_read(kind: Any, key: SettingKey) -> bool:
    """Return whether settings of a kind read the value of a key."""
    for part in key:
        kind = _field_type(kind, part)
        if kind is None:
            return False
    return True


def _field_type(kind: Any, part: str | int) -> Any:
    """Return the kind of what a key holds; None where nobody reads it."""
    kind = _unwrap_type(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {each.alias or name: each.annotation for name, each in kind.model_fields.items()}
        return fields.get(str(part))
    if get_origin(kind) in (dict, list):
        return get_args(kind)[-1]
    return None if kind is object else kind


def _unwrap_type(kind: Any) -> Any:
    """Return a kind without what annotates it, and without None."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def _sibling_keys(key: SettingKey, root: type[BaseModel]) -> list[str]:
    """Return the keys that are known where this one is."""
    kind: Any = root
    for part in key[:-1]:
        kind = _field_type(kind, part)
    return [field.alias or name for name, field in _unwrap_type(kind).model_fields.items()]


def _suggestion(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1)
    return f", did you mean {close[0]}?" if close else ""
