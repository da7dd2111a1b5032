"""Which of several int8 forms is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.errors import InvalidInput
from training.compression.variants import Trial, fastest_within

pytestmark = pytest.mark.unit
PARENT = {"f1": 0.8, "average_precision": 0.9}
SLOW = Trial("dynamic", True, False, p50_ms=5.0, f1=0.8, average_precision=0.9, distance=0.01)
FAST = replace(SLOW, form="static", p50_ms=4.0)


@pytest.mark.parametrize(
    ("change", "chosen"),
    [({}, "static"), ({"f1": 0.79}, "dynamic"), ({"average_precision": 0.89}, "dynamic"), ({"distance": 1}, "dynamic")],
)
def test_the_fastest_within_the_gate_is_taken(change: dict[str, float], chosen: str) -> None:
    assert fastest_within([SLOW, replace(FAST, **change)], PARENT, 0.99, 0.05).form == chosen


def test_where_none_is_within_the_gate_all_figures_are_told() -> None:
    with pytest.raises(InvalidInput, match=r"no form has 1 of .* F1 0\.8000 .*dynamic.*F1 0\.7000.*Lower gate"):
        fastest_within([replace(SLOW, f1=0.7)], PARENT, 1.0, 0.05)
