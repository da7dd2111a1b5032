"""The playground and the documentation in a real browser that asks nobody but our server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.backends.fake import TALE
from tests.e2e.browser import Page, browser
from tests.e2e.serving_process import Server, publish, serve

pytestmark = pytest.mark.e2e
KEY = "page-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    publish(home, "matching", "matching")
    publish(home, "generation", "generation", latency_s=0.01)
    with serve(home, api_key=KEY) as running:
        yield running


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "profile") as opened:
        yield opened


def picture(page: Page, name: str, tmp_path: Path) -> None:
    """Kept where SLUICE_TEST_PICTURES says, for people to look at."""
    target = Path(os.environ.get("SLUICE_TEST_PICTURES", tmp_path)) / f"{name}.png"
    page.picture(target)
    assert target.stat().st_size > 20_000


def submit(page: Page, form: str) -> None:
    page.run(f"document.querySelector('#{form} button').click()")


def shown(form: str) -> str:
    return f"document.querySelector('#{form} .out').innerText"


def test_the_playground_works(page: Page, server: Server, tmp_path: Path) -> None:
    page.open(server.url)
    page.wait_for("document.querySelector('#models')?.textContent.includes('wants an API key')")
    submit(page, "match")
    assert "API key is missing" in page.wait_for(f"{shown('match')}.includes('401') && {shown('match')}")
    page.run(f"key = document.querySelector('#key'); key.value = '{KEY}'; key.dispatchEvent(new Event('change'))")
    page.wait_for("document.querySelector('#complete select').options.length")
    assert page.run("document.querySelector('#ready').textContent") == "ready"

    page.run("document.querySelector('#match [name=b]').value = 'i WAS charged twice'")
    submit(page, "match")
    assert "0.982" in page.wait_for(f"{shown('match')}.includes('tokens') && {shown('match')}")
    submit(page, "rerank")
    ranked = page.wait_for(f"{shown('rerank')}.includes('tokens') && {shown('rerank')}")
    assert ranked.index("charged two times") < ranked.index("exchange rate")

    submit(page, "complete")
    # Text is there before the stream is over.
    page.wait_for(f"document.querySelector('#complete .live') && {shown('complete')}.length > 12")
    text = page.wait_for(f"{shown('complete')}.includes('end: length') && {shown('complete')}")
    assert (TALE * 2)[6:102] in text
    assert "96 tokens" in text
    picture(page, "playground", tmp_path)

    page.run("document.querySelector('#complete [name=max_tokens]').value = 250")
    submit(page, "complete")
    page.wait_for("document.querySelector('#complete .live') && !document.querySelector('#cancel').disabled")
    page.run("document.querySelector('#cancel').click()")
    page.wait_for(f"{shown('complete')}.includes('cancelled here')")

    page.run("document.querySelector('#match [name=a]').value = '<poison>'")
    submit(page, "match")
    page.wait_for(f"{shown('match')}.includes('backend_failed')")
    assert all(url.startswith((server.url, "data:")) for url in page.requests), page.requests
    assert [problem for problem in page.problems if "401" not in problem] == []


def test_the_documentation_works_without_a_network(page: Page, server: Server, tmp_path: Path) -> None:
    page.open(f"{server.url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length >= 10")
    page.run("document.querySelector('[id$=\"match_v1_match_post\"] .opblock-summary-control').click()")
    page.wait_for("document.body.innerText.includes('I was charged twice')")
    picture(page, "docs", tmp_path)
    assert all(url.startswith((server.url, "data:")) for url in page.requests), page.requests
    assert page.problems == []
