"""`@frozen` makes what the standard library's `@dataclass(frozen=True, slots=True)` makes: each test runs with both."""

import copy
import inspect
import pickle
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, asdict, astuple, dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from zablog.frozen import frozen


class Body:
    """What stands behind the decorator."""

    first: int
    second: str = "two"
    third: Mapping[str, int] = field(default_factory=dict)

    def both(self) -> str:
        return f"{self.first} {self.second}"


class Other:
    """The same fields."""

    first: int
    second: str = "two"
    third: Mapping[str, int] = field(default_factory=dict)


class Nothing:
    """No fields."""


def copy_of(body: type) -> type:
    """A class of its own: a decorator takes the defaults out of the one that it is given."""
    return type(body.__name__, (), {name: value for name, value in vars(body).items() if name not in ("__dict__", "__weakref__")})


Made = tuple[Any, Any, Any]  # Any: classes that are made anew for each test
MAKERS: dict[str, Callable[[type], type]] = {"ours": frozen, "the library's": dataclass(frozen=True, slots=True)}


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest) -> Made:
    make = MAKERS[request.param]
    one, other, nothing = (make(copy_of(body)) for body in (Body, Other, Nothing))
    return one, other, nothing


def test_fields_are_given_by_place_by_name_or_by_default(made: Made) -> None:
    one, _, nothing = made

    assert astuple(one(1)) == (1, "two", {})
    assert astuple(one(1, "x", third={"a": 1})) == (1, "x", {"a": 1})
    assert astuple(nothing()) == ()
    assert one(1).both() == "1 two"


def test_each_has_a_default_of_its_own_where_a_factory_makes_it(made: Made) -> None:
    one, _, _ = made

    assert one(1).third is not one(1).third


@pytest.mark.parametrize("arguments", [(), (1, "two", {}, 4)])
def test_too_few_and_too_many_are_refused_in_the_same_words(made: Made, arguments: tuple[object, ...]) -> None:
    one, _, _ = made

    with pytest.raises(TypeError, match=r"Body\.__init__\(\) (missing 1 required|takes from 2 to 4 positional)"):
        one(*arguments)


def test_nothing_can_be_changed(made: Made) -> None:
    one, _, nothing = made

    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'first'"):
        one(1).first = 2
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'first'"):
        del one(1).first
    with pytest.raises((FrozenInstanceError, TypeError)):  # the library's own words for this are an accident
        one(1).fourth = 2
    assert not hasattr(one(1), "__dict__") and not hasattr(nothing(), "__dict__")


def test_equal_are_those_of_one_class_with_equal_fields(made: Made) -> None:
    one, other, nothing = made

    assert one(1, third={"a": 1}) == one(1, third={"a": 1})
    assert one(1) != one(2) and one(1) != one(1, "x")
    assert one(1) != other(1) and one(1) != (1, "two", {})
    assert nothing() == nothing() and nothing() != one(1)


def test_equal_ones_have_one_hash(made: Made) -> None:
    one, _, nothing = made

    assert hash(one(1, third=())) == hash(one(1, third=()))
    assert len({one(1, third=()), one(1, third=()), one(2, third=())}) == 2
    assert hash(nothing()) == hash(nothing())
    with pytest.raises(TypeError, match="unhashable"):
        hash(one(1, third={}))


def test_it_shows_its_fields(made: Made) -> None:
    one, _, nothing = made

    assert repr(one(1)) == "Body(first=1, second='two', third={})"
    assert repr(nothing()) == "Nothing()"


def test_the_library_knows_it_as_its_own(made: Made) -> None:
    one, _, _ = made

    assert is_dataclass(one)
    assert [each.name for each in fields(one)] == ["first", "second", "third"]
    assert one.__match_args__ == ("first", "second", "third")
    assert replace(one(1), second="x") == one(1, "x")
    assert asdict(one(1, third={"a": 1})) == {"first": 1, "second": "two", "third": {"a": 1}}
    with pytest.raises(TypeError, match="unexpected keyword"):
        replace(one(1), fourth=2)


def test_it_is_matched_by_place(made: Made) -> None:
    one, other, _ = made

    match one(1, "x"):
        case other():
            raise AssertionError("another class")
        case one(first, "x", third):
            assert (first, third) == (1, {})
        case _:
            raise AssertionError("not matched")


def test_its_parameters_can_be_looked_at(made: Made) -> None:
    one, _, _ = made

    assert list(inspect.signature(one).parameters) == ["first", "second", "third"]
    assert get_type_hints(one.__init__)["second"] is str
    assert one.__init__.__qualname__ == "Body.__init__"


def test_what_the_class_says_of_itself_stands() -> None:
    class Loud:
        value: int

        def __repr__(self) -> str:
            return "loud"

    assert repr(frozen(Loud)(1)) == "loud"  # type: ignore[call-arg]  # its fields are not seen through the call


@frozen
class Kept:
    """Found by its name, as a pickle needs it."""

    value: list[int]
    name: str = ""


def test_copies_and_pickles_are_equal_and_frozen() -> None:
    kept = Kept([1, 2], "n")

    for again in (copy.copy(kept), copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert again == kept
        with pytest.raises(FrozenInstanceError):
            again.name = "m"
    assert copy.deepcopy(kept).value is not kept.value
