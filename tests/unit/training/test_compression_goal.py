"""Goals as they are written, and the front of points."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from training.compression.front import Point, Spread, judged
from training.compression.goal import parse_goal

pytestmark = pytest.mark.unit


def point(name: str, f1: float, p50_ms: float, size_bytes: int = 10, memory_bytes: int = 10) -> Point:
    latency = Spread(p50=p50_ms, low=p50_ms, high=p50_ms)
    return Point(name=name, quality={"f1": f1}, latency_ms=latency, size_bytes=size_bytes, memory_bytes=memory_bytes)


TEACHER = point("teacher", 0.8, 20.0, 100, 100)


@pytest.mark.parametrize(
    "text",
    ["f1 >= 0.98 teacher, smallest p50", "F1 >= 0.98 of the teacher, smallest p50 on this machine"],
)
def test_a_goal_is_read_as_it_is_said(text: str) -> None:
    goal = parse_goal(text)
    assert goal.smallest == "p50_ms"
    assert goal.met({"f1": 0.785}, TEACHER.figures())
    assert not goal.met({"f1": 0.783}, TEACHER.figures())


def test_bounds_may_be_shares_or_have_units() -> None:
    goal = parse_goal("f1 >= 0.7, size <= 0.2 teacher, p50 <= 5 ms, memory <= 200 MB, smallest size")
    fits = {"f1": 0.7, "size_bytes": 20, "p50_ms": 5, "memory_bytes": 2e8}
    assert goal.met(fits, TEACHER.figures())
    for name, value in {"f1": 0.69, "size_bytes": 21, "p50_ms": 5.1, "memory_bytes": 2.1e8}.items():
        assert not goal.met(fits | {name: value}, TEACHER.figures()), name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f1 >= 0.98 teacher", "does not say what should be smallest"),
        ("smallest f1", "'f1' is none of p50, size, memory"),
        ("smallest p50, smallest size", "two figures smallest"),
        ("speed >= 3, smallest p50", "'speed' is not measured"),
        ("f1 > 0.9, smallest p50", "is not understood"),
        ("f1 >= 1.2.3, smallest p50", "'1.2.3' in .* is no number"),
        ("size <= 20 MB teacher, smallest p50", "not both"),
        ("", "is not understood"),
    ],
)
def test_what_is_no_goal_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_goal(text)


def test_the_front_and_the_choice() -> None:
    goal = parse_goal("f1 >= 0.9 teacher, smallest p50")
    lost = Point(name="lost", status="failed", why="it broke")
    points = [point("good", 0.78, 8), point("fast", 0.73, 2), point("weak", 0.5, 1), point("beaten", 0.7, 9), lost]
    found = {each.name: each for each in judged(points, TEACHER, goal)}
    assert {name for name, each in found.items() if each.on_front} == {"good", "fast", "weak"}
    assert {name for name, each in found.items() if each.meets_goal} == {"good", "fast"}
    assert [name for name, each in found.items() if each.chosen] == ["fast"]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=12))
def test_every_point_off_the_front_is_beaten_by_one_on_it(places: list[tuple[int, int, int]]) -> None:
    points = [point(str(index), f1 / 4, p50, size) for index, (f1, p50, size) in enumerate(places)]
    found = judged(points, TEACHER, None)
    front = [each for each in found if each.on_front]
    assert front
    for each in found:
        beaten = [
            other
            for other in front
            if all(
                a <= b
                for a, b in zip(
                    (-other.quality["f1"], *(other.figures()[cost] for cost in ("p50_ms", "size_bytes"))),
                    (-each.quality["f1"], *(each.figures()[cost] for cost in ("p50_ms", "size_bytes"))),
                    strict=True,
                )
            )
        ]
        assert beaten if not each.on_front else each in beaten
