"""The base of every package's `config.py`: frozen, strict, and explicit about what shapes a result.

Fields are documented by the string below them; `slm explain` prints it. A field made with `neutral()`
changes how a stage runs or what it prints but not what it makes, and so stays out of the artifact's
key: raising `train.log_every` does not invalidate a checkpoint.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A section of a recipe: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def identity(self) -> dict[str, Any]:
        """The settings that shape the result, as plain JSON values; neutral fields left out."""
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("neutral"))
        }

    def resolved(self) -> dict[str, Any]:
        """Every setting as plain JSON values."""
        return self.model_dump(mode="json")


def neutral(default: Any, **constraints: Any) -> Any:
    """A pydantic field that does not shape what the stage makes (logging, threads, output options)."""
    return Field(default, json_schema_extra={"neutral": True}, **constraints)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
