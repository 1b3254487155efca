"""Subsets of the settings, for commands that must work without passwords and secrets.

A key that a subset does not name is not checked, nor is a value of type `object`.
"""

from pydantic import BaseModel, ConfigDict, Field

from alerts.settings import RECEIVER_KINDS, ExternalUrl, Labels, RouteSettings, RuleSettings, Site
from analyzer.settings import QuestionSettings
from deploy.config.settings import DataSettings, Name
from ingest.settings import Title
from storage.settings import DatabaseUrl, LogSettings


class DatabaseSubset(DataSettings):
    """The database."""

    database: DatabaseUrl = None


class LogSubset(DataSettings):
    """The log, and the site that its events name."""

    log: LogSettings = LogSettings()
    site: Site = ""


class RuleReceivers(BaseModel):
    """A rule, and the receivers that it notifies."""

    model_config = ConfigDict(extra="ignore")

    name: str
    notify: list[str] = []


class ReceiverSubset(BaseModel):
    """A receiver, without the settings of its kind."""

    model_config = ConfigDict(extra="allow")

    route: RouteSettings = RouteSettings()

    @property
    def kind(self) -> str:
        """Return the name of its kind, or none."""
        known = self.model_extra or {}
        return next((kind for kind in RECEIVER_KINDS if known.get(kind) is not None), "none")


class NamesSubset(DataSettings):
    """The names of cameras, rules and receivers, and the routes."""

    cameras: dict[str, object] = Field(default_factory=dict)
    rules: list[RuleReceivers] = Field(default_factory=list)
    receivers: dict[str, ReceiverSubset] = Field(default_factory=dict)
    route: RouteSettings = RouteSettings()


class CameraZones(BaseModel):
    """A camera with the names of its zones."""

    model_config = ConfigDict(extra="ignore")

    zones: dict[str, object] = Field(default_factory=dict)


class ZonesSubset(DataSettings):
    """The names of cameras and their zones."""

    cameras: dict[str, CameraZones] = Field(default_factory=dict)


class RulesSubset(DataSettings):
    """The rules in full, and the names that they may use."""

    cameras: dict[Name, object] = Field(default_factory=dict)
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    rules: list[RuleSettings] = Field(default_factory=list)
    receivers: dict[Name, object] = Field(default_factory=dict)


class CameraTitle(BaseModel):
    """The title of a camera."""

    model_config = ConfigDict(extra="ignore")

    title: Title | None = None


class DescriptionSubset(DataSettings):
    """The words that describe an incident: questions, rules, titles, and its origin."""

    cameras: dict[Name, CameraTitle] = Field(default_factory=dict)
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    rules: list[RuleSettings] = Field(default_factory=list)
    receivers: dict[Name, object] = Field(default_factory=dict)
    site: Site = ""
    labels: Labels = Field(default_factory=dict)
    external_url: ExternalUrl | None = None
