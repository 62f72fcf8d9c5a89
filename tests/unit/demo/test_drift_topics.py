"""The drift part of a summary: what the records of the reports and alerts topics say."""

from __future__ import annotations

import pytest

from streamserve.demo.drift_topics import DriftFigures, Told, told
from streamserve.drift.events import Alert, Report, RetrainRequest, State

WHO = {"pipeline": "flights", "model": "flight-delay", "version": "1"}


def report(*drifted):
    return Report(
        **WHO, segment="", window_s=604_800.0, start_ms=0, end_ms=1, rows=10, sampled_share=1.0, n_effective=10.0,
        reference="r", provisional=False, decided=True, drifted=list(drifted), columns={}, span={},
    ).json()  # fmt: skip


def alert(kind, *columns):
    return Alert(
        **WHO, incident="i", sequence=0, alert=kind, at_ms=1, opened_ms=1, severity="warning", title="t",
        reasons=[{"kind": "data", "column": column} for column in columns], span={},
    ).json()  # fmt: skip


def test_looks_columns_and_incidents_are_counted():
    found = told(
        [report(), report("temp", "dewp"), report("temp")],
        [alert("opened", "temp"), alert("cleared", "temp"), alert("opened", "temp"), alert("worsened", "dewp", "temp")],
    )
    assert found == Told(looks=3, drifted=("dewp", "temp"), incidents=2, named=("dewp", "temp"))


def test_other_kinds_of_records_are_passed_over():
    state = State(**WHO, resume=0, state={}).json()
    request = RetrainRequest(**WHO, reason="schedule", at_ms=1, evidence={}).json()
    assert told([state, report()], [request]) == Told(looks=1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Told(looks=5), "0 columns drifted; no incidents"),
        (Told(looks=5, drifted=("a",), incidents=1, named=("a",)), "1 column drifted; 1 incident about a"),
        (
            Told(looks=5, drifted=tuple("abcdef"), incidents=2, named=tuple("abcdef")),
            "6 columns drifted; 2 incidents about a, b, c, d and 2 more",
        ),
    ],
)
def test_the_words_fit_the_numbers(found, words):
    figures = DriftFigures(told=found, labels=2000, joined=1990, dashboard="http://127.0.0.1:8090/")
    assert figures.rows() == [
        ("drift looks", "5", words),
        ("labels", "2,000", "1,990 joined with their predictions"),
    ]
    assert figures.document()["labels_joined"] == 1990
