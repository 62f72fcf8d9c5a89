"""The dashboard in a real browser: what a person sees, with keys, pointer, a phone, a lost connection, both themes.

Any error or warning on the browser's console fails a test, and so does a request to anywhere but the sidecar.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from streamserve.sidecar import web
from streamserve.sidecar.listener import DashboardServer
from tests.browser import Browser, chromium
from tests.unit.sidecar.sample_board import STATES, SampleBoard, sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium (apt install chromium, or set CHROMIUM)"),
]

HEADLINES = {
    "empty": "Waiting for the first samples", "learning": "Learning what is normal", "ok": "All quiet in delay 7 and delay 8",
    "alarm": "Drift in delay 7", "stale": "No samples for 9 min", "error": "The monitor cannot do its work",
}  # fmt: skip
SELECTED = "document.querySelector('[aria-selected=true]')?.dataset.name"
TITLE = "document.querySelector('.detail-title').textContent"
CONTRASTS = """
(() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const ground = (node) => { const own = parse(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own : over(own, node.parentElement ? ground(node.parentElement) : [255, 255, 255, 1]); };
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const node = text.parentElement, style = getComputedStyle(node);
    if (!text.data.trim() || !node.checkVisibility({visibilityProperty: true}) || node.closest("svg, noscript, .skip, .sr, [aria-hidden=true]")) continue;
    let faint = 1;
    for (let up = node; up; up = up.parentElement) faint *= getComputedStyle(up).opacity;
    const page = ground(document.documentElement), mix = (colour) => over([...colour.slice(0, 3), faint], page);
    const full = ground(node), ink = mix(over(parse(style.color), full)), under = mix(full), [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (contrast < (large ? 3 : 4.5)) bad.push(`${text.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return bad;
})()
"""


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def browser(runner):
    context = Browser.start()
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


@pytest.fixture
def visit(runner, browser):
    """Run a test's coroutine with a page that shows a board; afterwards nothing was complained about or leaked."""

    def go(test, board=None, *, view="", expected=(), **options):
        async def body():
            async with shown(browser, board or SampleBoard("alarm"), view, **options) as (page, shown_board, server):
                await test(page, shown_board, server)
                unexpected = [line for line in page.complaints if not any(part in line for part in expected)]
                assert unexpected == []
                elsewhere = [url for url in page.requests if not url.startswith(f"http://127.0.0.1:{page.port}/")]
                assert elsewhere == []

        runner.run(body())

    return go


@asynccontextmanager
async def shown(browser, board, view="", **options):
    async with DashboardServer("127.0.0.1", 0, sources(board)) as server, browser.page(**options) as page:
        page.port = server.port
        await page.open(f"http://127.0.0.1:{server.port}/{view}")
        await page.until("performance.getEntriesByName('interactive').length > 0")
        yield page, board, server


async def settled(page):
    """Everything that was asked for is drawn."""
    await page.until("!document.querySelector('.loading')")
    await page.script("new Promise((done) => setTimeout(done, 400))")


def test_it_says_what_is_wrong_since_when_and_in_which_version(visit):
    async def test(page, board, server):
        await page.until("document.title.startsWith('▲ Drift in delay 7')")
        assert await page.text("#verdict-title") == "Drift in delay 7"
        assert "for 41 min" in await page.text("#verdict-since")
        assert "wind_gust_kmh" in await page.text("#verdict-reasons")
        assert (await page.text(".figure.bad")).split("\n") == ["columns drifted", "6", "of 202"]
        assert await page.script("document.querySelector('#favicon').getAttribute('href')") == "icons/alarm.svg"
        await page.until("document.querySelector('#link').textContent === 'live'")

    visit(test)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "look",
    [{"dark": False}, {"dark": True}, {"width": 390, "height": 844, "mobile": True}],
    ids=["light", "dark", "phone"],
)
def test_every_state_has_a_face(visit, tmp_path, state, look):
    async def test(page, board, server):
        assert await page.text("#verdict-title") == HEADLINES[state]
        await settled(page)
        assert await page.script("document.documentElement.scrollWidth <= innerWidth")
        await page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 15_000
        assert await page.script(CONTRASTS) == []

    visit(test, SampleBoard(state), **look)


def test_the_greatest_drift_is_chosen_and_explained(visit):
    async def test(page, board, server):
        await page.until(f"{TITLE} === 'wind_gust_kmh'")
        await settled(page)
        assert "the floor is 0.050 \N{GREEK SMALL LETTER SIGMA}" in await page.text(".detail-words")
        assert await page.script("document.querySelector('.hist .now').getAttribute('d').length") > 300
        assert await page.script("document.querySelectorAll('.detail canvas').length") == 2
        assert "--offsets 0:4182003-4391778 --column wind_gust_kmh" in await page.text(".command code")
        assert "4,182,003" in await page.script("document.querySelector('.span table').textContent")

    visit(test, height=1800)


def test_a_drift_that_begins_is_seen_without_a_reload(visit):
    async def test(page, board, server):
        assert "All quiet" in await page.text("#verdict-title")
        board.inject("humidity", 0.6)
        await page.until("document.querySelector('#verdict-title').textContent === 'Drift in delay 7'")
        await page.until("document.querySelector('#runway .row').dataset.name === 'humidity'")
        assert await page.script("document.querySelector('.row.drifted use').getAttribute('href')") == "#i-alarm"
        assert "drifted for" in await page.script("document.querySelector('.row.drifted').getAttribute('aria-label')")
        await page.until("document.querySelector('.incident.open .incident-title')?.textContent === 'humidity moved'")

    visit(test, SampleBoard("ok"))


def test_news_keeps_scrolling_choice_focus_and_nodes(visit):
    async def test(page, board, server):
        await settled(page)
        await page.script("document.querySelector('#rows').focus(); document.querySelector('#rows').scrollTop = 1500")
        await page.until("document.querySelectorAll('#runway .row')[8]?.getAttribute('aria-posinset') > 20")  # scrolled
        await page.script("document.querySelectorAll('#runway .row')[8].click()")
        chosen = await page.script(SELECTED)
        await page.until(f"{TITLE} === {json.dumps(chosen)}")
        top = await page.script("document.querySelector('#rows').scrollTop")
        await page.script(
            "window.row = document.querySelector('[aria-selected=true]'); window.tab = document.querySelector('.tab')"
        )
        for _ in range(8):
            board.step()
            await asyncio.sleep(0.25)
        assert await page.script("document.querySelector('#rows').scrollTop") == top
        assert await page.script(SELECTED) == chosen
        assert await page.script("window.row.isConnected && window.tab.isConnected")
        assert await page.script("document.activeElement.id") == "rows"

    visit(test)


def test_800_columns_are_in_the_list_and_few_in_the_page(visit):
    async def test(page, board, server):
        assert await page.text("#columns-count") == "802 columns, 6 drifted"
        await page.script("document.querySelector('#rows').focus()")
        await page.key("End")
        await page.until("document.querySelector('[aria-selected=true]')?.getAttribute('aria-posinset') === '802'")
        assert await page.script("document.querySelectorAll('#runway .row').length") < 60
        await page.key("Home")
        await page.until("document.querySelector('[aria-selected=true]')?.getAttribute('aria-posinset') === '1'")

    visit(test, SampleBoard("alarm", features=800))


def test_search_and_filters_narrow_the_list(visit):
    async def test(page, board, server):
        await page.key("/", "/")
        assert await page.script("document.activeElement.id") == "search"
        await page.write("WIND")
        await page.until("document.querySelector('#columns-count').textContent === '2 of 202 columns, 1 drifted'")
        await page.write("zzz")
        await page.until("!document.querySelector('#rows-empty').hidden")
        assert "No column is named like “WINDzzz”" in await page.text("#rows-empty")
        await page.key("Escape")
        await page.until("document.querySelector('#columns-count').textContent === '202 columns, 6 drifted'")
        await page.click("[data-filter=output]")
        await page.until("document.querySelector('#columns-count').textContent === '2 of 202 columns, 1 drifted'")

    visit(test)


def test_arrow_keys_walk_the_list(visit):
    async def test(page, board, server):
        await page.script("document.querySelector('#rows').focus()")
        for name in ("visibility_km", "precip_mm"):
            await page.key("ArrowDown")
            await page.until(f"{SELECTED} === '{name}'")
        await page.until(f"{TITLE} === 'precip_mm'")
        assert (
            await page.script(
                "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))?.dataset.name"
            )
            == "precip_mm"
        )
        await settled(page)
        assert "missing 0.20 % → 3.40 % +3.2 pt" in " ".join((await page.text(".specials")).split())

    visit(test)


def test_a_category_shows_bars_and_unseen_values(visit):
    async def test(page, board, server):
        await settled(page)
        assert await page.script("document.querySelectorAll('.histogram .cat').length") == 15
        assert "unseen" in await page.text(".specials")
        assert await page.text(".cat.moved .cat-change") == "\N{MINUS SIGN}8.9 pt"
        await page.click(".as-table summary")
        await page.until("document.querySelectorAll('.as-table tbody tr').length === 18")

    visit(test, view="#column=carrier", height=1400)


def test_a_bin_under_the_pointer_is_told(visit):
    async def test(page, board, server):
        await settled(page)
        box = await page.script(
            "(() => { const r = document.querySelector('.hist').getBoundingClientRect(); return [r.x + r.width / 2, r.y + 60]; })()"
        )
        await page.pointer("mouseMoved", *box)
        await page.until(
            "/: reference 3\\.1 %, now [0-9.]+ % \\(.+ pt\\)/.test(document.querySelector('.hist-read').textContent)"
        )
        await page.click(".histogram [data-mode=change]")
        await page.until("document.querySelector('.hist .gain').getAttribute('d').length > 50")
        assert await page.text(".legend") == "fewer than the reference\nmore"

    visit(test, height=1400)


def test_another_version_window_and_segment_are_chosen_and_kept_in_the_address(visit):
    async def test(page, board, server):
        await page.click(".tab:nth-child(2)")
        await page.until("document.querySelector('.tab[aria-current] b')?.textContent === 'delay 8'")
        await page.script(
            "(() => { const s = document.querySelector('.pick select'); s.value = '3600'; s.dispatchEvent(new Event('change')); })()"
        )
        await page.until("location.hash.includes('window=3600') && location.hash.includes('version=8')")
        await page.until("document.querySelector('.detail .statistics dd')?.textContent === '712,800'")
        await page.script("history.back()")
        await page.until("document.querySelector('.tab[aria-current] b')?.textContent === 'delay 7'")

    visit(test)


def test_an_address_leads_straight_to_a_view(visit):
    async def test(page, board, server):
        await page.until(f"{TITLE} === 'visibility_km'")
        await settled(page)
        assert await page.script("[...document.querySelectorAll('.pick select')].map((s) => s.value)") == [
            "60",
            "origin=JFK",
        ]

    visit(test, view="#model=delay&version=8&column=visibility_km&window=60&segment=origin%3DJFK")


def test_the_reason_of_an_alarm_leads_to_its_column_and_segment(visit):
    async def test(page, board, server):
        await page.click(".chip:nth-child(4)")
        await page.until("new URLSearchParams(location.hash.slice(1)).get('segment') === 'origin=EWR'")
        await page.until(f"{TITLE} === 'wind_gust_kmh'")
        await page.until("document.querySelectorAll('.pick select')[1].value === 'origin=EWR'")

    visit(test)


def test_the_command_can_be_copied(visit):
    async def test(page, board, server):
        await settled(page)
        await page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        await page.click(".copy")
        await page.until("document.querySelector('.copy').textContent === 'copied ✓'")

    visit(test, height=1800)


def test_on_a_phone_a_column_has_the_screen_and_back_returns_to_the_place(visit):
    async def test(page, board, server):
        assert await page.script("getComputedStyle(document.querySelector('.detail')).display") == "none"
        await page.script("document.querySelector('#rows').scrollTop = 400")
        await page.script("document.querySelector('#split').scrollIntoView()")
        top = await page.script("scrollY")
        await page.script("document.querySelector('#runway .row:nth-child(9)').click()")
        await page.until("document.body.classList.contains('one-column')")
        assert await page.script("getComputedStyle(document.querySelector('.verdict')).display") == "none"
        await page.until("document.activeElement.className === 'detail-title'")
        await page.click(".back")
        await page.until("!document.body.classList.contains('one-column')")
        assert await page.script("document.querySelector('#rows').scrollTop") == 400
        assert abs(await page.script("scrollY") - top) < 300

    visit(test, width=390, height=844, mobile=True)


def test_a_lost_connection_is_told_and_heals(visit):
    async def test(page, board, server):
        port = server.port
        await server.close()
        await page.until("!document.querySelector('#banner').hidden")
        assert "Connection lost: the sidecar does not answer" in await page.text("#banner")
        assert await page.text("#link") == "not connected"
        assert await page.text("#verdict-title") == "Drift in delay 7"
        board.become("ok")
        async with DashboardServer("127.0.0.1", port, sources(board)):
            await page.until("document.querySelector('#banner').hidden", timeout_s=30)
            await page.until("document.querySelector('#verdict-title').textContent.startsWith('All quiet')")
            await page.until("document.querySelector('#link').textContent === 'live'", timeout_s=40)

    visit(
        test,
        expected=[
            "ERR_CONNECTION_REFUSED",
            "ERR_INCOMPLETE_CHUNKED_ENCODING",
            "ERR_EMPTY_RESPONSE",
            "ERR_CONNECTION_RESET",
        ],
    )


def test_offline_the_page_stays_and_says_so(visit):
    async def test(page, board, server):
        await settled(page)
        await page.offline(on=True)
        await page.until("!document.querySelector('#banner').hidden")
        assert "offline" in await page.text("#banner")
        assert await page.script("document.querySelectorAll('#runway .row').length") > 5
        await page.offline(on=False)
        await page.until("document.querySelector('#banner').hidden", timeout_s=30)

    visit(test, expected=["ERR_INTERNET_DISCONNECTED"])


def test_without_a_stream_it_polls(visit, monkeypatch):
    monkeypatch.setattr(web, "MAX_STREAMS", 0)

    async def test(page, board, server):
        await page.until("document.querySelector('#link').textContent === 'polling'")
        board.become("ok")
        await page.until("document.querySelector('#verdict-title').textContent.startsWith('All quiet')")

    visit(test, expected=["503 (Service Unavailable)"])


def test_a_board_that_fails_leaves_what_was_known_and_a_reason(visit):
    async def test(page, board, server):
        board.broken = True
        board.step()
        await page.until("!document.querySelector('#banner').hidden")
        assert "see the sidecar's log" in await page.text("#banner")
        board.broken = False
        board.step()
        await page.until("document.querySelector('#banner').hidden")

    visit(test, expected=["500 (Internal Server Error)"])


def test_names_from_outside_are_text(visit):
    board = SampleBoard("alarm", features=40)
    hostile = '<img src=x onerror="document.title=1"><b>bold</b>'
    overview = board.overview
    board.overview = lambda: json.loads(json.dumps(overview()).replace("visibility_km", json.dumps(hostile)[1:-1]))

    async def test(page, board, server):
        assert await page.script("[...document.querySelectorAll('.name b')].map((n) => n.textContent)[1]") == hostile
        assert await page.script("document.querySelectorAll('main img').length") == 0

    visit(test, board)


def test_blocks_that_are_unknown_may_be_null(visit):
    board = SampleBoard("ok", features=40)
    overview, column = board.overview, board.column

    def bare():
        document = overview()
        for name in ("state_since_ms", "traffic", "sidecar", "budget", "incidents"):
            document[name] = None
        for name in ("reference", "segments", "performance", "labels", "quality"):
            document["models"][0][name] = None
        document["models"][1]["performance"] = {
            "metric": "accuracy",
            "windows": None,
            "history": None,
            "baseline": None,
        }
        for name in ("ks", "psi", "p", "spark"):
            document["models"][0]["columns"][0][name] = None
        return document

    board.overview = bare
    board.column = lambda *key: {
        **column(*key),
        "cells": None,
        "history": None,
        "statistics": None,
        "span": None,
        "replay": None,
    }

    async def test(page, board, server):
        await page.until("document.querySelectorAll('#runway .row').length > 5")
        await settled(page)
        assert "All quiet" in await page.text("#verdict-title")
        await page.script("document.querySelector('.tab:nth-child(2)').click()")
        await settled(page)
        assert await page.text("#versions") is not None

    visit(test, board, height=3000)


def test_a_column_without_rows_in_that_segment_says_so(visit):
    board = SampleBoard("alarm", features=40)
    board.column = lambda *key: None

    async def test(page, board, server):
        await page.until("document.querySelector('.detail .hollow').textContent.startsWith('Too few rows here yet')")

    visit(test, board, expected=["404 (Not Found)"])


def test_the_theme_is_chosen_and_outlives_the_page(visit):
    async def test(page, board, server):
        assert await page.script("getComputedStyle(document.documentElement).colorScheme") == "light"
        await page.click("#theme")
        await page.click("#theme")
        assert await page.script("getComputedStyle(document.documentElement).colorScheme") == "dark"
        await page.open(f"http://127.0.0.1:{page.port}/")
        assert await page.script("document.documentElement.dataset.theme") == "dark"

    visit(test)


def test_every_control_has_a_name_and_every_chart_a_caption(visit):
    async def test(page, board, server):
        await settled(page)
        await page.call("Accessibility.enable")
        nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        controls = {
            "button",
            "textbox",
            "searchbox",
            "combobox",
            "listbox",
            "option",
            "link",
            "image",
            "figure",
            "region",
        }
        nameless = [
            (node["role"]["value"], node.get("properties")) for node in nodes
            if not node["ignored"] and node["role"]["value"] in controls and not node.get("name", {}).get("value")
        ]  # fmt: skip
        assert nameless == []

    visit(test, height=3000)
