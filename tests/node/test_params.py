"""Declared parameters: what they accept, what they say, and how they go over the wire."""

import math
from typing import Any

import pytest

from rtcbridge import Bool, Choice, Float, Int, Params, Text
from rtcbridge.node.params import ParamError, check_declaration, defaults, update

PARAMS = {
    "strength": Float(0.5, min=0, max=1, step=0.1, title="Strength", help="How much."),
    "count": Int(3, min=1),
    "gain": Float(1.0, max=9.5),
    "mirror": Bool(False),
    "style": Choice(choices={"Cheap": ["edges", ("sketch", "Pencil")], "Dear": ["candy"]}),
    "prompt": Text("a cat", max_length=10),
}


def test_defaults_are_read_by_name_and_by_attribute() -> None:
    values = defaults(PARAMS)
    assert values.strength == values["strength"] == 0.5
    assert values.style == "edges"
    assert dict(values) == {
        "strength": 0.5, "count": 3, "gain": 1.0, "mirror": False, "style": "edges", "prompt": "a cat",
    }  # fmt: skip
    assert len(values) == 6
    with pytest.raises(AttributeError, match="no parameter 'speed'"):
        _ = values.speed
    with pytest.raises(AttributeError, match="set by the client"):
        values.strength = 1


def test_an_update_gives_new_values_and_leaves_the_old() -> None:
    old = defaults(PARAMS)
    new = update(PARAMS, old, {"strength": 1, "count": 4.0, "style": "sketch", "mirror": True})
    assert (new.strength, new.count, new.style, new.mirror, new.gain) == (1.0, 4, "sketch", True, 1.0)
    assert type(new.strength) is float
    assert type(new.count) is int
    assert old.strength == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 1.5}, "strength: expected a number from 0 to 1"),
        ({"strength": "1"}, "strength: expected a number from 0 to 1"),
        ({"strength": True}, "strength: expected a number from 0 to 1"),
        ({"strength": math.nan}, "strength: expected a number from 0 to 1"),
        ({"strength": None}, "strength: expected a number from 0 to 1"),
        ({"gain": math.inf}, "gain: expected a number of at most 9.5"),
        ({"count": 0}, "count: expected a whole number of at least 1"),
        ({"count": 1.5}, "count: expected a whole number of at least 1"),
        ({"count": math.inf}, "count: expected a whole number of at least 1"),
        ({"count": math.nan}, "count: expected a whole number of at least 1"),
        ({"count": 10**400}, "count: expected a whole number of at least 1"),
        ({"mirror": 1}, "mirror: expected true or false"),
        ({"style": "Candy"}, "style: expected one of edges, sketch, candy"),
        ({"style": ["edges"]}, "style: expected one of edges, sketch, candy"),
        ({"prompt": "x" * 11}, "prompt: expected a text of at most 10 characters"),
        ({"prompt": 1}, "prompt: expected a text of at most 10 characters"),
        ({"speed": 1}, "speed: the model has no such parameter"),
        ([], "params: expected an object"),
        (None, "params: expected an object"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_changes(changes: Any, message: str) -> None:
    values = defaults(PARAMS)
    if isinstance(changes, dict):
        changes = {"strength": 0.9} | changes
    with pytest.raises(ParamError) as caught:
        update(PARAMS, values, changes)
    assert str(caught.value) == message
    assert values == defaults(PARAMS)


def test_the_declaration_on_the_wire() -> None:
    assert [param.describe(name) for name, param in PARAMS.items()] == [
        {"name": "strength", "kind": "float", "title": "Strength", "default": 0.5, "min": 0, "max": 1, "step": 0.1,
         "help": "How much."},
        {"name": "count", "kind": "int", "title": "Count", "default": 3, "min": 1},
        {"name": "gain", "kind": "float", "title": "Gain", "default": 1.0, "max": 9.5},
        {"name": "mirror", "kind": "bool", "title": "Mirror", "default": False},
        {"name": "style", "kind": "choice", "title": "Style", "default": "edges", "choices": [
            {"value": "edges", "title": "Edges", "group": "Cheap"},
            {"value": "sketch", "title": "Pencil", "group": "Cheap"},
            {"value": "candy", "title": "Candy", "group": "Dear"},
        ]},
        {"name": "prompt", "kind": "text", "title": "Prompt", "default": "a cat"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": Float(2, min=0, max=1)}, "a, default: expected a number from 0 to 1"),
        ({"a": Choice("x", choices=["y"])}, "a, default: expected one of y"),
        ({"a": Choice()}, "a, default: expected one of "),
        ({"items": Bool(True)}, "'items' cannot be the name of a parameter"),
        ({"_a": Bool(True)}, "'_a' cannot be the name of a parameter"),
        ({"a b": Bool(True)}, "'a b' cannot be the name of a parameter"),
        ({"a": 1}, "a: expected rtcbridge.Float, Int, Bool, Choice or Text"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(params: Any, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        check_declaration(params)
    assert str(caught.value) == message


def test_a_long_choice_is_cut_short() -> None:
    choice = Choice(choices=[f"c{n}" for n in range(20)])
    with pytest.raises(ParamError, match=r"^c: expected one of c0, .*c7, …$"):
        choice.check("c", "x")


def test_params_compare_as_mappings() -> None:
    assert Params({"a": 1}) == {"a": 1}
    assert repr(Params({"a": 1})) == "Params({'a': 1})"
