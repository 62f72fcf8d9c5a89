"""Reports on a range: one profile, one look, a page that stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from streamserve.config.drift_settings import DriftSettings, SegmentSettings
from streamserve.drift.baseline import BaselineOptions, build
from streamserve.drift.chunk import Span, TextColumn
from streamserve.drift.gathered import Rows
from streamserve.drift.report.collected import Collected
from streamserve.drift.report.page import number, page, probability, sentence
from streamserve.drift.report.values import Question, decide
from streamserve.drift.segments import Segments

SETTINGS = DriftSettings(segments=[SegmentSettings(feature="colour", values=["red", "blue"])])
NASTY = '<script>alert("1")</script>'


def columns(n: int, seed: int, shift: float = 0.0, gaps: float = 0.0) -> dict:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, n)
    x[rng.random(n) < gaps] = np.nan
    return {
        "x": x,
        "calm": rng.normal(size=n),
        "colour": TextColumn.of(rng.choice(["red", "blue", NASTY], n).tolist()),
        "output.p": rng.random(n).astype(np.float32),
    }


@pytest.fixture(scope="module")
def reference():
    options = BaselineOptions(
        model="m",
        version="1",
        pane_s=10,
        created_ms=0,
        source="a test",
        segments=SETTINGS.segments,
        importance={"x": 0.9, "calm": 0.1},
    )
    return build(columns(40_000, 1), np.arange(40_000, dtype=np.int64) * 100, options)


def rows(n: int, *, first: int = 0, partition: int = 0, level: int = 0, **more) -> Rows:
    return Rows(
        columns=columns(n, 2 + first, **more),
        event_time_ms=10_000_000 + np.arange(n, dtype=np.int64) * 100,
        level=np.full(n, level, dtype=np.int64),
        span=np.zeros(n, dtype=np.int64),
        offset=first + np.arange(n, dtype=np.int64),
        spans=[Span("events", partition, first, first + n, n)],
        id=[""] * n,
    )


def report(reference, *parts: Rows, segment: str = "", **question):
    collected = Collected(reference, Segments(SETTINGS.segments, reference.columns), segment)
    for part in parts:
        collected.add(part)
    return decide(reference, collected, SETTINGS, Question(pipeline="p", segment=segment, **question))


def test_rows_like_the_reference_do_not_drift(reference):
    found = report(reference, rows(6000))
    assert found.decided
    assert found.drifted == ()
    assert (found.rows, found.weight, found.reference_rows) == (6000, 6000, 40_000)
    assert found.window_s == 600
    assert sentence(found) == "None of 4 columns drifted."


def test_a_shift_is_found_and_stands_first(reference):
    found = report(reference, rows(6000, shift=0.4))
    first = found.columns[0]
    assert [column.name for column in found.drifted] == ["x"]
    assert (first.name, first.finding) == ("x", "yes")
    assert first.wasserstein == pytest.approx(0.4, abs=0.05)
    assert first.mean == pytest.approx(0.4, abs=0.05)
    assert first.mean_reference == pytest.approx(0, abs=0.02)
    assert first.importance == 0.9


def test_missing_values_are_found(reference):
    column = report(reference, rows(6000, gaps=0.05)).columns[0]
    assert (column.name, column.drifted, column.effect_kind) == ("x", True, "share")
    assert column.missing == pytest.approx(0.05, abs=0.01)
    assert column.missing_reference == 0
    assert column.values == 6000 - round(column.missing * 6000)
    assert column.bars[-1].label == "missing"


def test_parts_in_any_order_give_the_same_report(reference):
    parts = [rows(2000, first=first, partition=partition) for first, partition in ((0, 0), (2000, 0), (0, 1))]
    one, two = report(reference, *parts), report(reference, *parts[::-1])
    assert one.columns[0].p == two.columns[0].p
    assert one.span == two.span == {"events": {"0": [0, 4000], "1": [0, 2000]}}


def test_rows_of_a_level_stand_for_more_and_prove_less(reference):
    full, thin = report(reference, rows(6000, shift=0.1)), report(reference, rows(6000, shift=0.1, level=3))
    assert (thin.rows, thin.weight) == (6000, 48_000)
    assert [column.effect for column in thin.columns] == pytest.approx([column.effect for column in full.columns])
    assert [column.values for column in thin.columns] == [column.values for column in full.columns]


def test_a_segment_is_compared_with_its_own_rows(reference):
    found = report(reference, rows(6000), segment="colour=red")
    assert found.rows == sum(text == "red" for text in rows(6000).columns["colour"].texts())
    assert found.reference_rows == reference.segment("colour=red").counts[0].sum()
    assert found.drifted == ()


def test_few_rows_are_no_basis(reference):
    found = report(reference, rows(50, shift=3))
    assert (found.decided, found.drifted) == (False, ())
    assert sentence(found) == "Too few rows to decide: 50 of at least 100."


def test_a_large_change_of_a_stream_that_wanders_may_be_chance():
    rng = np.random.default_rng(4)
    x = np.repeat(rng.normal(size=100), 100) + rng.normal(size=10_000)
    options = BaselineOptions(model="m", version="1", pane_s=10, created_ms=0, source="a test")
    wandering = build({"x": x}, np.arange(10_000, dtype=np.int64) * 100, options)
    part = rows(100, shift=1.0)
    collected = Collected(wandering, Segments((), wandering.columns))
    collected.add(part)
    assert decide(wandering, collected, DriftSettings(), Question(pipeline="p")).columns[0].finding == "maybe chance"


def test_no_rows_are_refused(reference):
    with pytest.raises(ValueError, match="no rows"):
        report(reference)
    with pytest.raises(ValueError, match="without the segment"):
        report(reference, rows(10), segment="colour=green")


def test_the_document_is_json_and_says_it_all(reference):
    found = report(reference, rows(6000, shift=0.4), rejects=(("enrich", "schema", "x", 3),), notes=("hm",))
    read = json.loads(json.dumps(found.to_document(), allow_nan=False))
    assert read["drifted"] == ["x"]
    assert len(read["columns"]) == 4
    assert read["rejects"] == [["enrich", "schema", "x", 3]]
    assert sum(bar["current"] for bar in read["columns"][0]["bars"]) == pytest.approx(1)


def test_bins_are_named_by_their_edges_or_by_their_only_value(reference):
    assert reference.columns[0].name == "x"
    found = {column.name: column for column in report(reference, rows(200)).columns}
    assert found["x"].bars[0].label.startswith("up to -")
    assert found["x"].bars[-1].label.startswith("over ")
    options = BaselineOptions(model="m", version="1", pane_s=10, created_ms=0, source="a test")
    days = build({"day": np.arange(7000) % 7 + 1}, np.arange(7000, dtype=np.int64), options)
    collected = Collected(days, Segments((), days.columns))
    collected.add(rows(1000))
    bars = decide(days, collected, DriftSettings(), Question(pipeline="p")).columns[0].bars
    assert [bar.label for bar in bars] == ["1", "2", "3", "4", "5", "6", "7", "missing"]


# -- the page ---------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Elements of a page, and whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def drifted(reference):
    found = report(reference, rows(6000, shift=0.4), rejects=(("enrich", "schema", NASTY, 3),), notes=(NASTY,))
    return page(found, f"streamserve drift report --segment {NASTY}", 1_700_000_000_000)


def test_the_page_stands_alone_and_runs_nothing(drifted):
    elements = Elements(drifted)
    assert elements.open == []
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    attributes = {name for _, attrs in elements.tags for name in attrs}
    assert not any(name.startswith("on") for name in attributes)
    assert "src" not in attributes
    assert all(attrs["href"].startswith("#c") for tag, attrs in elements.tags if "href" in attrs)
    assert not re.search(r"https?://|url\(|@import", drifted)
    assert any("default-src 'none'" in (attrs.get("content") or "") for tag, attrs in elements.tags if tag == "meta")


def test_text_from_data_is_text(drifted):
    assert NASTY not in drifted
    assert Elements(drifted).text.count("<script>") >= 3


def test_the_page_names_what_drifted_without_relying_on_colour(drifted):
    text = Elements(drifted).text
    assert "⚠ 1 of 4 columns drifted: x." in text
    assert "⚠ yes" in text
    assert "Drift of m version 1" in text
    assert drifted.count("<svg") == 8
    assert "prefers-color-scheme:dark" in drifted


def test_every_figure_can_be_reached_from_the_table(drifted):
    elements = Elements(drifted)
    links = [attrs["href"][1:] for tag, attrs in elements.tags if tag == "a"]
    assert links == [attrs["id"] for tag, attrs in elements.tags if tag == "details"]
    assert [("open" in attrs) for tag, attrs in elements.tags if tag == "details"] == [True, False, False, False]


def test_a_calm_page_says_so(reference):
    text = Elements(page(report(reference, rows(6000)), "again", 0)).text
    assert "✓ None of 4 columns drifted." in text
    assert "Rejected records" not in text


def test_numbers_are_short():
    assert [number(value) for value in (0.123456, 1234.5, float("inf"), float("nan"))] == [
        "0.123",
        "1.23e+03",
        "∞",
        "-",
    ]
    assert [probability(value) for value in (0.04567, 1e-30, 0.0)] == ["0.046", "1e-30", "<1e-300"]
