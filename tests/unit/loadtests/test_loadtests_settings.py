"""The command line: what is refused, what is documented, and that no secret is written down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.cli import build_parser, main
from loadtests.errors import UsageError
from loadtests.provenance import describe_command
from loadtests.settings import Kind, RunSettings, build_settings, parse_assignments

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def test_users_are_given_by_kind() -> None:
    assert parse_assignments("match=8, completion=2", "--users") == {"match": "8", "completion": "2"}
    settings = build_settings({"users": parse_assignments("rerank=3", "--users")})
    assert settings.users == {Kind.RERANK: 3}
    assert settings.total_users == 3


@pytest.mark.parametrize("text", ["", "8", "match", "match=", "embed=1", "match=1,match=2", "match=1,,"])
def test_other_forms_of_users_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--users"):
        parse_assignments(text, "--users")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"host": "127.0.0.1:3000"}, "must be a URL like"),
        ({"host": "ftp://a"}, "must be a URL like"),
        ({"host": "http://user:secret@a"}, "use --api-key"),
        ({"host": "http://a:99999"}, "0-65535"),
        ({"host": "http://a/?x=1"}, "query"),
        ({"users": {"match": "0"}}, "--users"),
        ({"users": {"match": "1001"}}, "more than one process can time"),
        ({"users": {"match": "1"}, "models": {"completion": "x"}}, "--models: completion has a model but no users"),
        ({"duration": "-1"}, "--duration '-1'"),
        ({"duration": "inf"}, "--duration 'inf'"),
        ({"text-words": "3"}, "--text-words '3'"),
        ({"api-key": "with space"}, "printable ASCII"),
    ],
)
def test_a_wrong_value_is_refused_with_its_option(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_settings(values)
    assert complaint in str(caught.value)
    if "secret" in str(values) or "api-key" in values:
        assert "with space" not in str(caught.value)


def test_a_host_may_have_a_path_before_the_routes() -> None:
    assert build_settings({"host": "https://example.org/sluice/"}).host == "https://example.org/sluice"


@pytest.mark.parametrize(
    "arguments", [["run", "--api-key", "s3cret", "--seed", "7"], ["run", "--api-key=s3cret", "--seed", "7"]]
)
def test_the_recorded_command_has_no_key(arguments: list[str]) -> None:
    command = describe_command(arguments)
    assert "s3cret" not in command
    assert command.endswith("--seed 7")


def test_options_cannot_be_shortened_past_the_blotting_of_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["run", "--api", "s3cret"])
    assert caught.value.code == 2
    assert "unrecognized" in capsys.readouterr().err


def test_a_wrong_value_exits_2_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--users", "mtach=3"]) == 2
    assert capsys.readouterr().err == (
        "loadtests: --users 'mtach=3': 'mtach' is no kind of user; the kinds are match, rerank, completion\n"
    )


def test_a_folder_that_cannot_be_written_is_found_out_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["run", "--out", str(tmp_path / "file" / "sub")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_documentation_lists_every_option_with_its_default() -> None:
    text = (ROOT / "docs/loadtests.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| (.+?) \|", text, flags=re.MULTILINE))
    fields = {field.alias or name: field for name, field in RunSettings.model_fields.items()}
    assert set(rows) == set(fields)
    for option, shown in rows.items():
        default = fields[option].default
        if isinstance(default, int | float):
            assert float(shown.strip("`")) == default, option
        elif isinstance(default, str | Path):
            assert shown == f"`{default}`", option


def test_help_and_wrong_arguments_do_not_load_locust() -> None:
    code = (
        "import sys; from loadtests.cli import build_parser, main; build_parser().format_help();"
        "main(['run', '--users', 'x']); assert 'locust' not in sys.modules and 'gevent' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
