"""The pages in a real browser: keys, sorting, search, explanations; nothing asked of a network.

``CLAMR_BENCH_SCREENSHOTS=DIR`` keeps the pictures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.results import SavedRun
from tests.chromium import ENTER, ESCAPE, TAB, Browser, chromium
from tests.report_cases import folders, small_run

pytestmark = pytest.mark.browser

OPEN = "document.querySelector('.query[open]')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def run(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SavedRun]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        folders(patch, folder)
        saved = small_run(folder)
        assert main(["report", str(saved.folder), "--to", str(folder / "report.html")]) == 0
        assert main(["leaderboard", "--html"]) == 0
        yield saved


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("CLAMR_BENCH_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def report(browser: Browser, run: SavedRun) -> Iterator[Browser]:
    yield from opened(browser, run.folder.parents[5] / "report.html")


@pytest.fixture
def leaderboard(browser: Browser, run: SavedRun) -> Iterator[Browser]:
    yield from opened(browser, run.folder.parents[5] / "leaderboard.html")


def opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page, and afterwards the proof that it asked for nothing and complained of nothing."""
    browser.look()
    browser.requests(), browser.console()
    browser.open(page)
    yield browser
    assert browser.requests() == [page.as_uri()]
    assert browser.console() == []


def column(browser: Browser, table: str, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('{table} tbody tr')].map(r => r.cells[{place}])"
    return [str(text) for text in browser.run(f"{cells}.map(c => c.innerText.split(' ')[0])")]


def test_tables_sort_by_a_press(leaderboard: Browser, pictures: Path) -> None:
    page = leaderboard
    names = column(page, "table", 0)
    assert len(names) == 2
    page.click("thead th:nth-child(1) .sort")
    assert column(page, "table", 0) == sorted(names)
    page.click("thead th:nth-child(3) .sort")
    down = [float(text) for text in column(page, "table", 2)]
    assert down == sorted(down, reverse=True)
    assert page.run("document.querySelector('th:nth-child(3)').ariaSort") == "descending"
    page.press(ENTER)  # The header has the focus.
    assert [float(text) for text in column(page, "table", 2)] == sorted(down)
    assert page.count("[aria-sort]") == 1
    shoot(page, pictures, "leaderboard")


def test_search_finds_queries(report: Browser) -> None:
    total = report.count(".query")
    report.press("/")
    assert report.run("document.activeElement.id") == "words"
    name = report.run("JSON.parse(document.getElementById('data').textContent).queries[3].id")
    report.press(*name)
    assert report.count(".query") == 1
    assert report.text("#count").startswith("1 of")
    report.press(ESCAPE)
    assert report.count(".query") == total
    report.run("document.getElementById('order').value = 'best'")
    report.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    values = report.run(
        "[...document.querySelectorAll('.value')].map(e => parseFloat(e.innerText))"
    )
    assert values == sorted(values, reverse=True)


def test_a_query_opens_by_keys_and_explains(report: Browser, pictures: Path) -> None:
    report.run("document.querySelector('.query summary').focus()")
    report.press(ENTER)
    wait(report, f"{OPEN} && {OPEN}.querySelector('.explanation')")
    assert report.count(".query[open] .hit") >= 5
    assert report.run(f"{OPEN}.querySelector('.thumbs img').naturalWidth") > 20
    assert report.run(f"{OPEN}.querySelector('.picture img').naturalWidth") > 20
    sums = report.run(
        f"[...{OPEN}.querySelectorAll('.sum')].map(e => [...e.querySelectorAll('b')]"
        ".map(b => b.innerText))"
    )
    assert sums
    for *terms, score in sums:
        assert f"{sum(round(10_000 * float(term)) for term in terms) / 10_000:.4f}" == score
    # A token, by the tab key and Enter: what belongs to it is lit and stays so.
    report.run(f"{OPEN}.querySelector('.token').focus()")
    assert report.count(".lit") >= 2
    report.press(ENTER)
    assert report.run("document.activeElement.ariaPressed") == "true"
    report.press(TAB)
    numbers = report.run(
        "[...new Set([...document.querySelectorAll('.lit')].map(e => e.localName))]"
    )
    assert "button" in numbers
    assert "tr" in numbers, "the row of the figures, too"
    shoot(report, pictures, "report")


def test_pages_fit_a_phone(report: Browser) -> None:
    report.look(width=390, height=800)
    report.run("document.querySelector('.query').open = true")
    wait(report, f"{OPEN} && {OPEN}.querySelector('.hits')")
    assert report.run("document.documentElement.scrollWidth") <= 390


def test_text_can_be_read_in_light_and_dark(report: Browser) -> None:
    """Contrast of text on what lies behind it, as WCAG 2 counts it: 4.5 for body text."""
    report.run("document.querySelector('.query').open = true")
    wait(report, f"{OPEN} && {OPEN}.querySelector('.hits')")
    for dark in (False, True):
        report.look(dark=dark)
        found = report.run(CONTRAST)
        assert found, "nothing was looked at"
        assert [one for one in found if one[1] < 4.5] == []


#: Contrast of elements whose background is a plain colour of their own or of an ancestor.
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const text = (c) => `rgb(${c.join(',')})`;
  const mixed = (colour, under) => {
    for (const one of [under, colour]) {
      canvas.fillStyle = one;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const own = (e) => getComputedStyle(e).backgroundColor;
  const behind = (e) => e ? text(mixed(own(e), behind(e.parentElement))) : 'rgb(255,255,255)';
  const light = (c) => c.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const chosen = ['h1', 'p', 'a', 'th', 'td', '.ends', '.tag', '.part', '.token', '.token small',
    'mark', 'sup', 'dt', 'dd', '.hit .rank', 'code', '.value small', 'figcaption', '.box small',
    '.stretch small', 'footer', '.legend', 'button', 'select'];
  const found = [...document.querySelectorAll(chosen.join(','))].filter((e) => e.innerText);
  return found.map((e) => {
    const under = behind(e);
    const pair = [light(mixed(under, '#fff')), light(mixed(getComputedStyle(e).color, under))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    return [`${e.localName}.${e.className}: ${e.innerText.slice(0, 20)}`, contrast];
  });
})()"""


def wait(browser: Browser, condition: str) -> None:
    """Until an expression is true: a `toggle` event comes after the press that causes it."""
    script = (
        "new Promise(done => { const look = () => (" + condition + ") ? done(true) : "
        "requestAnimationFrame(look); look(); })"
    )
    assert browser.run(script)


def shoot(browser: Browser, folder: Path, name: str) -> None:
    for dark in (False, True):
        browser.look(dark=dark)
        browser.picture(folder / f"{name}-{'dark' if dark else 'light'}.png", whole=True)
        assert (folder / f"{name}-light.png").stat().st_size > 10_000
