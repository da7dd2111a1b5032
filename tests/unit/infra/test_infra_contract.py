"""The template and the server agree: what one sets the other reads, what one exports the other scrapes."""

from __future__ import annotations

import pytest

from infra.rules import attributes, container
from infra.scaling_rules import GAUGE
from infra.template import Template
from serving.metrics import METERS
from serving.settings import Settings, variable

pytestmark = pytest.mark.unit


def test_every_setting_of_the_task_is_one_of_the_server(service: Template) -> None:
    server = container(service, "server")
    secrets = server["Secrets"]["Fn::If"][1]
    given = {entry["Name"] for entry in [*server["Environment"], *secrets] if entry["Name"].startswith("SLUICE_")}
    assert given == {"SLUICE_DRAIN_TIMEOUT_S", "SLUICE_API_KEYS"}
    assert given <= {variable(field) for field in Settings.model_fields}


def test_the_scaling_signal_is_one_gauge_without_labels() -> None:
    # Several series would be averaged, and a full engine would hide behind an idle one.
    (meter,) = (one for one in METERS if one.name == GAUGE)
    assert (meter.kind, meter.labels, meter.across_workers) == ("Gauge", (), "livemax")


def test_the_load_balancer_waits_longer_than_the_longest_deadline(service: Template) -> None:
    settings = Settings()
    longest_s = max(settings.completion_deadline_ms, settings.match_deadline_ms) / 1000
    values = attributes(service.property("LoadBalancer", "LoadBalancerAttributes"))
    assert int(values["idle_timeout.timeout_seconds"]) > longest_s
