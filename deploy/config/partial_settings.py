"""What a command reads of the settings when it does not need all of them.

A command that looks at incidents, or acts on one, has to work where no camera's password and
no receiver's secret is set. A key that is not named here is not checked; of a value that is an
`object` only the key counts.
"""

from pydantic import BaseModel, ConfigDict, Field

from alerts.settings import RECEIVER_KINDS, ExternalUrl, Labels, RouteSettings, RuleSettings, Site
from analyzer.settings import QuestionSettings
from deploy.config.settings import DataSettings, Name
from ingest.settings import Title
from storage.settings import DatabaseUrl, LogSettings


class DatabaseSubset(DataSettings):
    """Where the database is."""

    database: DatabaseUrl = None


class LogSubset(DataSettings):
    """Where the log is, and the site that its events name."""

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
    """What cameras, rules and receivers are called, and how receivers are notified."""

    cameras: dict[str, object] = Field(default_factory=dict)
    rules: list[RuleReceivers] = Field(default_factory=list)
    receivers: dict[str, ReceiverSubset] = Field(default_factory=dict)
    route: RouteSettings = RouteSettings()


class CameraZones(BaseModel):
    """A camera, with the names of its zones alone."""

    model_config = ConfigDict(extra="ignore")

    zones: dict[str, object] = Field(default_factory=dict)


class ZonesSubset(DataSettings):
    """What cameras and their zones are called."""

    cameras: dict[str, CameraZones] = Field(default_factory=dict)


class RulesSubset(DataSettings):
    """The rules in full, and the names that they may use."""

    cameras: dict[Name, object] = Field(default_factory=dict)
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    rules: list[RuleSettings] = Field(default_factory=list)
    receivers: dict[Name, object] = Field(default_factory=dict)


class CameraTitle(BaseModel):
    """What people call a camera."""

    model_config = ConfigDict(extra="ignore")

    title: Title | None = None


class DescriptionSubset(DataSettings):
    """What is said of an incident: questions, rules, titles, and where it comes from."""

    cameras: dict[Name, CameraTitle] = Field(default_factory=dict)
    questions: dict[Name, QuestionSettings] = Field(default_factory=dict)
    rules: list[RuleSettings] = Field(default_factory=list)
    receivers: dict[Name, object] = Field(default_factory=dict)
    site: Site = ""
    labels: Labels = Field(default_factory=dict)
    external_url: ExternalUrl | None = None
