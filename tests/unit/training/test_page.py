"""The report page: one file, nothing fetched, nothing unescaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.pages.page import Page, figure

pytestmark = pytest.mark.unit


def a_page() -> Page:
    page = Page("Report", language="zh")
    section = page.section("Errors")
    drawn, (axis,) = figure()
    axis.plot([1, 2], [3, 4], label="中文")
    axis.legend()
    section.figure(drawn, "two points")
    section.table(["text", "score"], [["<script>alert(1)</script>", 0.123456], [None, 1]])
    return page


def test_the_page_fetches_nothing_and_escapes_what_it_shows(tmp_path: Path):
    html = a_page().write(tmp_path / "deep" / "report.html").read_text(encoding="utf-8")

    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert not re.search(r"(src|href)=[\"'](?!#)", html.replace('xlink:href="#', ""))
    assert "url(http" not in html


def test_letters_of_a_plot_stay_letters():
    assert ">中文</text>" in a_page().html()


def test_no_plot_takes_what_another_one_defines():
    page = Page("Report", sections=[a_page().sections[0], a_page().sections[0]])
    elements = re.findall(r"<svg .*?</svg>", page.html(), flags=re.DOTALL)
    defined = [set(re.findall(r' id="([^"]*)"', each)) for each in elements]
    used = [set(re.findall(r'(?:url\(|href=")#([^")]*)', each)) for each in elements]

    assert defined[0].isdisjoint(defined[1])
    assert all(found and found <= own for found, own in zip(used, defined, strict=True))
    ids = re.findall(r' id="([^"]*)"', page.html())
    assert len(ids) == len(set(ids))
    assert page.html() == page.html()


def test_numbers_are_short_and_nothing_is_a_dash():
    html = a_page().html()

    assert '<td class="number">0.1235</td>' in html
    assert "<td>–</td>" in html


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 cells stands below 2 columns"):
        Page("Report").section("a").table(["x", "y"], [[1]])
