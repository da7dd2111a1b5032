"""Settings: from the environment, refused clearly, documented where the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.metrics import metrics_table
from serving.settings import Settings, SettingsRefused, misspelt, read_settings, settings_table

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def test_nothing_set_is_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"SLUICE_API_KEYS": " ", "SLUICE_THREADS": "", "PATH": "x"}) == Settings()


def test_values_are_read() -> None:
    environ = {
        "SLUICE_GENERATION_MODEL": " stories , generation:candidate,",
        "SLUICE_API_KEYS": "one,two",
        "SLUICE_MAX_ITEMS": "7",
        "SLUICE_ACCESS_LOG": "false",
        "SLUICE_DRAIN_NOTICE_S": "2.5",
    }
    settings = read_settings(environ)
    assert settings.generation_model == ("stories", "generation:candidate")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert (settings.max_items, settings.access_log, settings.drain_notice_s) == (7, False, 2.5)
    assert "'one'" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLUICE_MAX_ITEMS", "many"),
        ("SLUICE_MAX_ITEMS", "0"),
        ("SLUICE_MATCHING_MODEL", ","),
        ("SLUICE_ACCESS_LOG", "perhaps"),
        ("SLUICE_TARGET_WAIT_S", "-1"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsRefused, match=f"^{name} is '{value}': "):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({"OTEL_SERVICE_NAME": "x"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "false"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, "none"),
    ],
)
def test_spans_are_asked_for_by_the_standard_variables(environ: dict[str, str], exporter: str) -> None:
    assert read_settings(environ).traces_exporter == exporter


def test_a_bad_key_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsRefused) as refused:
        read_settings({"SLUICE_API_KEYS": "sécret"})
    assert "SLUICE_API_KEYS" in str(refused.value)
    assert "cret" not in str(refused.value).replace("secret", "")


def test_a_misspelt_variable_is_reported() -> None:
    (warning,) = misspelt({"SLUICE_MAX_ITEM": "3", "SLUICE_API_KEY": "x", "SLUICE_MAX_ITEMS": "3", "SLUICE_ELSE": ""})
    assert "SLUICE_MAX_ITEM is not a setting" in warning
    assert "SLUICE_MAX_ITEMS" in warning


@pytest.mark.parametrize(("name", "table"), [("settings", settings_table()), ("metrics", metrics_table())])
def test_the_documentation_has_this_very_table(name: str, table: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = re.search(f"<!-- {name}: begin -->\n(.*?)\n<!-- {name}: end -->", text, re.S)
    assert found
    assert found[1] == table, f"docs/api.md, between the {name} marks, should be:\n{table}"
