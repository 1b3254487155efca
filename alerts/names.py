"""The names that settings may give to rules, receivers and cameras."""

from typing import Annotated, Literal

from pydantic import Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*?][A-Za-z0-9_.*?-]{0,63}$")]
"""A name, or a glob such as `dock-*` for several names."""
IncidentLabel = Literal["camera", "rule", "severity"]
"""A label that incidents are grouped, matched and inhibited by."""
