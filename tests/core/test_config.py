"""Sections: immutable, strict, and clear about what shapes a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from slm.core.config import Config, neutral


class Inner(Config):
    depth: int = 1
    """How deep."""
    noise: int = neutral(0)


class Outer(Config):
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
    place: Path = Path("here")
    threads: int = neutral(2, ge=1)
    rate: float = 0.5


def test_a_section_cannot_be_changed_and_knows_its_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().rate = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Outer.model_validate({"rat": 1.0})
    with pytest.raises(ValidationError, match="finite number"):
        Outer(rate=float("nan"))


def test_a_default_that_breaks_its_own_rule_is_refused() -> None:
    class Wrong(Config):
        count: int = Field(0, ge=1)

    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Wrong()


def test_neutral_fields_stay_out_of_the_identity_at_any_depth() -> None:
    plain = Outer(items=(Inner(),), shares={"a": 1.0})
    noisy = Outer(inner=Inner(noise=9), items=(Inner(noise=8),), shares={"a": 1.0}, threads=7)
    assert plain.identity() == noisy.identity()
    assert plain.identity() == {
        "inner": {"depth": 1}, "items": [{"depth": 1}], "shares": {"a": 1.0}, "place": "here", "rate": 0.5
    }  # fmt: skip
    assert noisy.resolved()["threads"] == 7


@pytest.mark.parametrize("change", [{"inner": {"depth": 2}}, {"items": [{}]}, {"shares": {"b": 1}}, {"rate": 0.25}])
def test_every_other_field_shapes_the_identity(change: dict[str, object]) -> None:
    assert Outer.model_validate(change).identity() != Outer().identity()


def test_identity_and_resolved_are_plain_json() -> None:
    for value in (Outer().identity(), Outer().resolved()):
        assert json.loads(json.dumps(value)) == value


def test_the_string_below_a_field_is_its_description_and_neutral_keeps_constraints() -> None:
    assert Inner.model_fields["depth"].description == "How deep."
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Outer(threads=0)
