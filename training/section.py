"""What all sections of a recipe have in common. Each is defined beside what it configures, without importing that."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
