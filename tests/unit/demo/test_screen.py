"""What the screen says about drift."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from streamserve.demo.screen import Frame, Header, Lines, page

HEADER = Header(title="streamserve demo", place="here", metrics="http://127.0.0.1:8080/metrics")


def frame(drift):
    return Frame(
        state="replaying", over=False, elapsed_s=1.0, sent=10, predictions=9, dead_letters=1, lag=0, rate_in=10.0,
        rate_out=10.0, latency=None, newest=None, newest_dead_letter="", drift=drift,
    )  # fmt: skip


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100)


def test_lines_tell_news_of_the_sidecar_once(console):
    with Lines(console, HEADER) as lines:
        for drift in ("dashboard http://x/", "dashboard http://x/", "dashboard http://x/ · drift of temp"):
            lines.show(frame(drift))
    told = [line for line in console.file.getvalue().splitlines() if line.startswith("drift ")]
    assert told == ["drift dashboard http://x/", "drift dashboard http://x/ · drift of temp"]


def test_lines_without_a_sidecar_say_nothing_of_drift(console):
    with Lines(console, HEADER) as lines:
        lines.show(frame(""))
    assert "drift" not in console.file.getvalue()


def test_the_page_has_the_dashboards_address_below_that_of_the_metrics(console):
    console.print(page(HEADER, frame("dashboard http://127.0.0.1:8090/ starts"), [], 3, blocks=False))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[lines.index("metrics http://127.0.0.1:8080/metrics") + 1] == (
        "drift dashboard http://127.0.0.1:8090/ starts"
    )
