"""Static batching: in the order of arrival, together to the end of the longest, and nobody in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.generation.static import Job, play

pytestmark = pytest.mark.unit
PREFILL_S, STEP_S = 0.5, 0.1


class Clockwork:
    """A machine whose time passes by its work alone."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.rows = 0
        self.widest = 0

    def now_s(self) -> float:
        return self.time_s

    def sleep_until(self, moment_s: float) -> None:
        self.time_s = max(self.time_s, moment_s)

    def clear(self) -> None:
        self.rows = 0

    def prefill(self, row: int, prompt: tuple[int, ...]) -> None:
        assert row == self.rows
        self.rows += 1
        self.widest = max(self.widest, self.rows)
        self.time_s += PREFILL_S

    def decode(self) -> None:
        assert self.rows
        self.time_s += STEP_S


def job(tokens: int, after_s: float = 0.0) -> Job:
    return Job((1, 2, 3), tokens, after_s)


def test_who_comes_during_a_batch_waits_for_its_longest() -> None:
    first, long, late = play([[job(2)], [job(11)], [job(1, 0.1)]], Clockwork(), rows=8, seconds=60.0)
    assert (first.client, long.client, late.client) == (0, 1, 2)
    assert first.arrivals == pytest.approx((0.5, 1.1))  # it streams: its end is its own
    assert long.ended_s == pytest.approx(1.0 + 10 * STEP_S)
    assert late.ttft_s == pytest.approx(2.0 + PREFILL_S - 0.1)


def test_a_batch_takes_no_more_than_there_are_rows() -> None:
    machine = Clockwork()
    answered = play([[job(1)] for _ in range(5)], machine, rows=2, seconds=60.0)
    assert machine.widest == 2
    assert [each.arrivals[0] for each in answered] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5])


def test_a_client_pauses_from_its_own_end() -> None:
    first, _, again = play([[job(1), job(1, 0.2)], [job(21)]], Clockwork(), rows=2, seconds=60.0)
    assert first.ended_s == pytest.approx(0.5)
    assert again.due_s == pytest.approx(0.7)
    assert again.arrivals[0] == pytest.approx(3.0 + PREFILL_S)  # after the other one's 20 steps


def test_no_batch_begins_after_the_window() -> None:
    assert len(play([[job(1), job(1, 9.0)]], Clockwork(), rows=2, seconds=5.0)) == 1


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 3)), max_size=4), min_size=1, max_size=6))
def test_everybody_gets_all_tokens_in_the_order_of_arrival(plan: list[list[tuple[int, float]]]) -> None:
    clients = [[job(tokens, after_s) for tokens, after_s in client] for client in plan]
    answered = play(clients, Clockwork(), rows=3, seconds=1e9)
    assert sorted(each.tokens for each in answered) == sorted(each.tokens for client in clients for each in client)
    assert all(len(each.arrivals) == each.tokens for each in answered)
    firsts = [each.arrivals[0] for each in answered]
    assert firsts == sorted(firsts)
