"""Settings: what users write is understood, or the message names key, value and remedy."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator

from harness.errors import UsageError
from harness.settings import Settings, describe_settings, parse_assignments, parse_model


class Example(Settings):
    k1: float = Field(1.2, description="term saturation", gt=0)
    depth: int = Field(10, description="how many")
    mode: Literal["fast", "exact"] = Field("exact", description="which way")
    stem: bool = True
    names: tuple[str, ...] = ()

    @field_validator("names")
    @classmethod
    def short(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 2:
            raise ValueError("at most two names")
        return value


class Wrong(Settings):
    k1: float = Field("many", description="a default of the wrong type")  # type: ignore[assignment]


WHERE = "setting of bm25"


def test_values_are_read_as_their_types() -> None:
    values = {"k1": 2, "depth": "7", "mode": "fast", "stem": "no", "names": ["a"]}
    assert parse_model(Example, values, WHERE) == Example(
        k1=2.0, depth=7, mode="fast", stem=False, names=("a",)
    )
    assert parse_model(Example, {}, WHERE) == Example()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dept": 3}, "unknown setting of bm25: 'dept' (known: k1, depth, mode"),
        ({"dept": 3}, "Did you mean 'depth'?"),
        ({"depth": "many"}, "setting of bm25 'depth' = 'many': Input should be a valid integer"),
        ({"depth": 1.5}, "setting of bm25 'depth' = 1.5"),
        ({"k1": -1}, "setting of bm25 'k1' = -1: Input should be greater than 0"),
        ({"k1": None}, "setting of bm25 'k1' = None"),
        ({"mode": "slow"}, "Input should be 'fast' or 'exact'"),
        ({"names": ["a", "b", "c"]}, "'names' = ['a', 'b', 'c']: at most two names"),
        ({"names": ["a", 3]}, "'names.1' = 3"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_model(Example, values, WHERE)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(UsageError, match=r"'k1'.*; .*'mode'.*; .*'dept'"):
        parse_model(Example, {"dept": 3, "k1": "x", "mode": 1}, WHERE)


def test_a_plugin_without_settings_says_so() -> None:
    with pytest.raises(UsageError, match=r"'k1' \(there are none\)"):
        parse_model(Settings, {"k1": 3}, WHERE)


def test_settings_are_frozen_and_their_defaults_are_checked() -> None:
    settings = Example()
    with pytest.raises(ValidationError, match="frozen"):
        settings.depth = 3
    with pytest.raises(ValidationError, match="valid number"):
        Wrong()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bm25.k1=1.5", {"bm25": {"k1": 1.5}}),
        ("bm25.k1=1e-3", {"bm25": {"k1": "1e-3"}}),
        ("bm25.on=true", {"bm25": {"on": True}}),
        ("bm25.names=[a, b]", {"bm25": {"names": ["a", "b"]}}),
        ("bm25.text='a = b'", {"bm25": {"text": "a = b"}}),
        ("bm25.text=", {"bm25": {"text": None}}),
        (" bm25.k1 =2", {"bm25": {"k1": 2}}),
        ("multivent/v1.query=excerpt", {"multivent/v1": {"query": "excerpt"}}),
        ("my/file.py:Mine.depth=3", {"my/file.py:Mine": {"depth": 3}}),
    ],
)
def test_assignments(text: str, expected: dict[str, Any]) -> None:
    assert parse_assignments([text]) == expected


def test_yaml_reads_1e_3_as_text_but_the_setting_is_a_number() -> None:
    assert parse_model(Example, parse_assignments(["x.k1=1e-3"])["x"], WHERE).k1 == 0.001


def test_assignments_add_up_and_the_last_one_wins() -> None:
    assert parse_assignments(["a.x=1", "b.x=2", "a.y=3", "a.x=4"]) == {
        "a": {"x": 4, "y": 3},
        "b": {"x": 2},
    }
    assert parse_assignments([]) == {}


@pytest.mark.parametrize("text", ["k1=3", "bm25.k1", "", "=3", ".k1=3", "bm25.=3", "bm25 k1"])
def test_an_assignment_of_another_form_shows_the_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not NAME\.KEY=VALUE; for example"):
        parse_assignments([text])


def test_a_value_that_is_no_yaml_is_named() -> None:
    with pytest.raises(UsageError, match=r"the value '\[a, b' is not YAML; quote it"):
        parse_assignments(["bm25.names=[a, b"])


def test_settings_are_described_for_people() -> None:
    rows = {key: rest for key, *rest in describe_settings(Example)}
    assert rows["k1"] == ["float", "1.2", "term saturation"]
    assert rows["mode"] == ["fast | exact", "exact", "which way"]
    assert rows["names"] == ["list of str", "()", ""]
