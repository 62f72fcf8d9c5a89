"""The dashboard beside the running demo, in a real Chromium: what was injected is on top, and the page says so."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from streamserve.demo.flights import Flights
from tests.browser import Browser, chromium

RATE, INJECT_S, WEEK_MS = 2000, 8, 7 * 86_400_000
COMMAND = (sys.executable, "-m", "streamserve", "demo", "--broker", "kafka", "--keep")
TOP = "document.querySelector('#runway .row')?.dataset.name"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium (apt install chromium, or set CHROMIUM)"),
]


@pytest.mark.usefixtures("kafka_jars")
def test_what_the_demo_injects_is_on_top_of_the_page_within_two_windows(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--rate", str(RATE), "--events", "40000", "--inject", f"shift@{INJECT_S}"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = next(
            found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+/(?!metrics)", line))
        )
        asyncio.run(watch(address, tmp_path))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


LOOKS = (("light", (1280, 1600), False), ("dark", (1280, 1600), True), ("phone", (390, 844), False))


async def watch(address, folder):
    async with Browser.start() as browser, browser.page(width=1280, height=1600) as page:
        await page.open(address)
        await page.until(
            f"{TOP} === 'dep_delay' && document.querySelector('#runway .row').matches('.drifted')", timeout_s=90
        )
        assert "Drift in flight-delay 1" in await page.text("#verdict-title")
        overview = json.loads(await page.script("fetch('api/overview').then(answer => answer.text())"))
        opened = overview["incidents"][0]
        began_ms = int(Flights.load().event_time_ms(RATE * INJECT_S, RATE * INJECT_S + 1)[0])
        since_ms = {reason["column"]: reason["since_ms"] for reason in opened["reasons"]}
        assert 0 < since_ms["dep_delay"] - began_ms <= 2 * WEEK_MS
        for name, size, dark in LOOKS:
            await page.size(*size)
            await page.dark(on=dark)
            await asyncio.sleep(0.5)
            await page.screenshot(folder / f"{name}.png")
        assert page.complaints == []
        assert all(request.startswith((address, "data:")) for request in page.requests)
