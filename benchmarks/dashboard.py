"""How fast the dashboard is in a real browser while much happens: time to interactive, and frame times.

    .venv/bin/python -m benchmarks.dashboard [--seconds 30] [--features 200] [--points 3600] [--per-second 5]

A board with that many features and series of that length changes so often; the page is open with a column chosen, and
in the second half a pointer scrolls through the list. Frame times are differences of requestAnimationFrame's stamps.
Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from contextlib import AsyncExitStack

from streamserve.sidecar.listener import DashboardServer
from tests.browser import Browser, Page
from tests.unit.sidecar.sample_board import SampleBoard, sources

RECORD = """
window.frames_ms = []; window.long_ms = []; window.overviews = 0;
const watch = (type, take) => new PerformanceObserver((list) => list.getEntries().forEach(take)).observe({type});
watch("longtask", (entry) => window.long_ms.push(entry.duration));
watch("resource", (entry) => { if (entry.name.includes("overview")) window.overviews += 1; });
let before = performance.now();
const tick = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(tick); };
requestAnimationFrame(tick);
performance.setResourceTimingBufferSize(100000);
"""


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Open the page, let the board change, and read what the page recorded."""
    board = SampleBoard("alarm", features=arguments.features, points=arguments.points)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(DashboardServer("127.0.0.1", 0, sources(board)))
        browser = await stack.enter_async_context(Browser.start())
        page = await stack.enter_async_context(browser.page(width=1440, height=900))
        await page.open(f"http://127.0.0.1:{server.port}/")
        await page.until("performance.getEntriesByName('interactive').length > 0")
        interactive_ms = await page.script("performance.getEntriesByName('interactive')[0].startTime")
        weight = await page.script(
            "performance.getEntriesByType('resource').reduce((sum, e) => sum + e.transferSize, 0)"
        )
        await asyncio.sleep(1)
        await page.script(RECORD)
        changing = asyncio.create_task(_change(board, arguments))
        await asyncio.sleep(arguments.seconds / 2)
        await _scroll(page, arguments.seconds / 2)
        changing.cancel()
        frames = sorted(await page.script("window.frames_ms.slice(1)"))
        long_ms = await page.script("window.long_ms")
        updates = await page.script("window.overviews")
        complaints = page.complaints
    return {
        "machine": platform.machine(), "features": arguments.features, "points": arguments.points,
        "interactive_ms": round(interactive_ms), "transferred_bytes": weight, "updates": updates, "frames": len(frames),
        "frame_ms": {name: round(frames[min(len(frames) - 1, int(len(frames) * share))], 1)
                     for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))},
        "tasks_over_50_ms": len(long_ms), "longest_task_ms": max(long_ms, default=0), "complaints": complaints,
    }  # fmt: skip


async def _change(board: SampleBoard, arguments: argparse.Namespace) -> None:
    while True:
        board.step(10)
        await asyncio.sleep(1 / arguments.per_second)


async def _scroll(page: Page, seconds: float) -> None:
    box = await page.script(
        "(() => { document.querySelector('#split').scrollIntoView(); const r = document.querySelector('#rows')"
        ".getBoundingClientRect(); return [r.x + 200, r.y + 200]; })()"
    )
    for index in range(int(seconds * 5)):
        await page.call(
            "Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1], deltaX=0,
            deltaY=120 if index % 60 < 30 else -120,
        )  # fmt: skip
        await asyncio.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--points", type=int, default=3600)
    parser.add_argument("--per-second", type=float, default=5)
    json.dump(asyncio.run(measure(parser.parse_args())), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
