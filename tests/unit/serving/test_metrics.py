"""The metrics that work leaves behind."""

from __future__ import annotations

import pytest

from runtime.contract import Limits
from serving.metrics import EVENTS, METERS
from tests.unit.serving.asgi import ask, complete, match
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit


def values(text: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] not in "#")
    }


def test_a_warm_up_is_no_traffic_and_requests_are(make_app: MakeApp) -> None:
    app, room = make_app()
    before = values(room.metrics.text().decode())
    assert not any(name.startswith(("sluice_input", "sluice_batch", "sluice_requests_total")) for name in before)
    match(app, ("a", "b"), ("c", "d"))
    complete(app, max_tokens=5)
    found = values(ask(app, "GET", "/metrics").body.decode())
    expected = {
        'sluice_requests_total{model="matching",route="/v1/match",status="200"}': 1,
        'sluice_requests_total{model="generation",route="/v1/completions",status="200"}': 1,
        'sluice_request_seconds_count{route="/v1/match"}': 1,
        'sluice_input_tokens_total{model="matching"}': 6,
        'sluice_input_tokens_total{model="generation"}': 1,
        'sluice_output_tokens_total{model="generation"}': 5,
        'sluice_finished_total{model="generation",reason="length"}': 1,
        'sluice_time_to_first_token_seconds_count{model="generation"}': 1,
        'sluice_inter_token_seconds_count{model="generation"}': 4,
        'sluice_batch_items_sum{model="matching"}': 2,
        'sluice_tokenize_seconds_count{model="matching"}': 1,
        'sluice_queue_wait_seconds_count{model="matching"}': 2,
        'sluice_queued_items{model="matching"}': 0,
        'sluice_kv_cache_usage_ratio{model="generation"}': 0,
        "sluice_saturation": 0,
        "sluice_requests_in_flight": 0,
    }
    assert {name: found.get(name) for name in expected if name not in SPLIT} == {
        name: value for name, value in expected.items() if name not in SPLIT
    }


# How the two pairs were split over batches is the scheduler's affair.
SPLIT = {'sluice_queue_wait_seconds_count{model="matching"}'}


def test_every_event_of_the_engines_has_a_metric() -> None:
    assert set(EVENTS.values()) <= {meter.name for meter in METERS}
    assert Limits().target_wait_s > 0
