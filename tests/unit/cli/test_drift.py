"""`drift baseline` on files, the reading of ranges, and which commands there are."""

from __future__ import annotations

import csv
import json
import time

import numpy as np
import orjson
import pytest
import typer

from streamserve.cli import main
from streamserve.cli.drift_baseline import read_importance
from streamserve.cli.drift_files import file_parts
from streamserve.cli.drift_labels import judge
from streamserve.cli.drift_range import Range, parse_range
from streamserve.cli.drift_rows import RowStore
from streamserve.cli.drift_samples import _Passed
from streamserve.cli.drift_scoring import ScoredRows
from streamserve.config.drift_settings import LabelSettings
from streamserve.demo.flights import Flights
from streamserve.drift.chunk import Span, TextColumn
from streamserve.drift.levels import draws, stream_seed
from streamserve.drift.schema import MISSING
from streamserve.errors import ContractError
from streamserve.registry.references import FolderReferences
from tests.pipelines import flights_folder
from tests.records import settings as pipeline_settings
from tests.samples import sample_chunk

ROWS = 3000
DRIFT = "drift: {pane_s: 86400, windows_s: [604800], labels: {task: binary}, segments: [{feature: origin}]}\n"


@pytest.fixture(scope="module")
def events():
    """The first departures of the year, with what became of them."""
    flights = Flights.load()
    late = flights.late().tolist()
    return [{**event, "late": None if late[i] < 0 else late[i]} for i, event in enumerate(flights.events(0, ROWS))]


@pytest.fixture
def folder(tmp_path):
    """A pipeline folder of the demo, without a reference."""
    flights_folder(tmp_path)
    (tmp_path / "models/flight-delay/1/reference.json").unlink(missing_ok=True)
    config = tmp_path / "streamserve.yaml"
    before, _, _ = config.read_text().partition("\ndrift:")
    config.write_text(f"{before}\n{DRIFT}")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    """Calls `drift baseline`; returns exit code, stdout, stderr."""

    def call(*arguments: object, code: int = 0):
        with pytest.raises(SystemExit) as ended:
            main(["drift", "baseline", "-c", str(folder / "streamserve.yaml"), *map(str, arguments)])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        assert "Traceback" not in err
        return out, err

    return call


@pytest.fixture
def reference(folder):
    return lambda: FolderReferences(folder / "models").find("flight-delay", "1")


def lines(path, events):
    path.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    return path


def table(path, events):
    names = list(dict.fromkeys(name for event in events for name in event))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([["" if event.get(name) is None else event[name] for name in names] for event in events])
    return path


def arrays(path, events):
    names = list(dict.fromkeys(name for event in events for name in event))
    columns = {}
    for name in names:
        values = [event.get(name) for event in events]
        if any(isinstance(value, str) for value in values):
            columns[name] = np.array(["" if value is None else value for value in values])
        elif None in values:
            columns[name] = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        else:
            columns[name] = np.array(values)
    np.savez(path, **columns)
    return path


def test_a_file_becomes_a_reference_beside_the_model(run, folder, reference, events):
    out, err = run("--from", lines(folder / "rows.jsonl", events), "--label", "late")

    made = reference()
    assert made.rows == ROWS
    assert [name for name in made.names if name.startswith("output.")] == [
        "output.probability",
        "output.class",
        "output.confidence",
    ]
    assert len(made.names) == 17
    assert made.document.first_ms == events[0]["event_time"]
    assert set(made.document.segments) == {"origin=EWR", "origin=JFK", "origin=LGA"}
    assert made.calibration is not None
    assert set(made.document.performance) >= {"accuracy", "log_loss", "brier", "base_rate", "auc"}
    assert made.hash in out
    assert "3,000 from rows.jsonl" in out
    assert "3,000 rows are few" in err
    assert "the rows span 4 panes" in err


def test_every_format_gives_the_same_reference(run, folder, reference, events):
    found = []
    for make, name in ((lines, "rows.jsonl"), (table, "rows.csv"), (arrays, "rows.npz")):
        run("--from", make(folder / name, events), "--label", "late")
        found.append(reference().document)
    for other in found[1:]:
        assert other.columns == found[0].columns
        assert other.dispersion == found[0].dispersion
        assert other.calibration == found[0].calibration
        assert other.performance == found[0].performance


def test_what_is_missing_stays_missing_though_the_model_gets_a_default(run, folder, reference, events):
    run("--from", lines(folder / "rows.jsonl", events))
    made = reference()
    gaps = sum("pressure" not in event for event in events)
    assert gaps > 0
    assert made.columns[made.names.index("pressure")].counts[MISSING] == gaps
    assert made.columns[made.names.index("output.probability")].counts[MISSING] == 0


def test_rows_that_a_worker_rejects_are_left_out_and_counted(run, folder, reference, events):
    bad = [
        {**events[0], "carrier": "ZZ"},
        {**events[1], "distance": 106_900},
        {name: value for name, value in events[2].items() if name != "dep_delay"},
        {**events[3], "distance": "far"},
    ]
    out, _ = run("--from", lines(folder / "rows.jsonl", bad + events[4:]), "--format", "json")
    said = json.loads(out)
    assert reference().rows == said["rows"] == ROWS - 4
    assert {(r["stage"], r["reason"], r["feature"], r["count"]) for r in said["rejects"]} == {
        ("enrich", "schema", "carrier", 1),
        ("enrich", "out_of_range", "distance", 1),
        ("enrich", "missing_feature", "dep_delay", 1),
        ("decode", "schema", "distance", 1),
    }

    out, _ = run("--from", table(folder / "rows.csv", bad + events[4:]), "--format", "json")
    assert json.loads(out)["rows"] == ROWS - 4


def test_personal_values_never_reach_the_file(run, folder, reference, events, monkeypatch):
    path = lines(folder / "rows.jsonl", events)
    private = ["--set", "drift.pii.carrier=hash", "--set", "drift.pii.origin=drop", "--set", "drift.segments=[]"]
    monkeypatch.delenv("STREAMSERVE_PII_KEY", raising=False)
    assert "there is no key" in run("--from", path, *private, code=78)[1]

    monkeypatch.setenv("STREAMSERVE_PII_KEY", "secret")
    run("--from", path, *private)
    made = reference()
    assert "origin" not in made.names
    carriers = made.columns[made.names.index("carrier")].categories
    assert len(carriers) == len({event["carrier"] for event in events})
    assert {len(name) for name in carriers} == {32}
    assert b"JFK" not in made.to_json()


def test_a_dry_run_writes_nothing(run, folder, reference, events):
    out, _ = run("--from", lines(folder / "rows.jsonl", events), "--dry-run")
    assert "nothing" in out
    assert reference() is None


def test_json_tells_the_same(run, folder, reference, events):
    out, err = run("--from", lines(folder / "rows.jsonl", events), "--format", "json")
    said = json.loads(out)
    made = reference()
    assert (said["hash"], said["rows"], said["path"]) == (
        made.hash,
        ROWS,
        str(folder / "models/flight-delay/1/reference.json"),
    )
    assert [column["name"] for column in said["columns"]] == list(made.names)
    assert any("rows are few" in warning for warning in said["warnings"])
    assert not err


def test_the_newest_rows_of_a_slice_of_time_are_taken(run, folder, reference, events):
    since, until = events[500]["event_time"], events[2500]["event_time"]
    inside = [event for event in events if since <= event["event_time"] < until]
    run("--from", lines(folder / "rows.jsonl", events[::-1]), "--since", since, "--until", until)
    assert reference().rows == len(inside)

    _, err = run("--from", folder / "rows.jsonl", "--since", since, "--until", until, "--rows", 700)
    made = reference().document
    assert made.rows == 700
    assert (made.first_ms, made.last_ms) == (inside[-700]["event_time"], inside[-1]["event_time"])
    assert f"{len(inside):,} rows lie in the range; the newest 700 were taken" in err


def test_rows_without_times_count_in_their_order(run, folder, reference, events):
    rows = [{name: value for name, value in event.items() if name != "event_time"} for event in events]
    out, err = run("--from", table(folder / "rows.csv", rows))
    assert "event time" not in out
    assert "100 rows in their order count as one pane" in err
    assert reference().dispersion.panes == 30
    _, err = run("--from", folder / "rows.csv", "--since", "2013-01-01", code=78)
    assert "has no event times" in err


def test_importance_and_categories_are_taken_over(run, folder, reference, events):
    (folder / "weights.json").write_text('{"dep_delay": 3, "temp": 1}')
    run(
        "--from",
        lines(folder / "rows.jsonl", events),
        "--importance",
        folder / "weights.json",
        "--categorical",
        "day_of_week",
    )
    made = reference()
    given = {column.name: column.importance for column in made.columns if column.importance is not None}
    assert given == {"dep_delay": 0.75, "temp": 0.25}
    assert made.columns[made.names.index("day_of_week")].kind == "categorical"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--categorical", "nope"], "no column nope (--categorical)"),
        (["--label", "nope"], "nope"),
        (["--model-version", "7"], "has no version '7'"),
        (["--since", "2020-01-01"], "holds no rows of flight-delay 1"),
    ],
)
def test_what_does_not_fit_ends_with_78(run, folder, reference, events, arguments, says):
    _, err = run("--from", lines(folder / "rows.jsonl", events[:200]), *arguments, code=78)
    assert says in err
    assert reference() is None


def test_importance_of_an_unknown_column_ends_with_78(run, folder, events):
    (folder / "weights.json").write_text('{"nope": 1}')
    arguments = ["--from", lines(folder / "rows.jsonl", events[:200]), "--importance", folder / "weights.json"]
    assert "no column nope (--importance)" in run(*arguments, code=78)[1]


@pytest.mark.parametrize("text", ["[1]", "{}", '{"a": -1}', '{"a": "b"}', '{"a": 0}', "{", '{"a": true}'])
def test_importances_that_are_none_are_refused(tmp_path, text):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(ContractError, match=r"weights\.json"):
        read_importance(path)


def test_columns_that_lack_are_named(run, folder, events):
    rows = [{name: value for name, value in event.items() if name not in {"carrier", "temp"}} for event in events[:50]]
    _, err = run("--from", table(folder / "rows.csv", rows), code=78)
    assert "lacks 1 of the columns needed: carrier; it has flight_id, event_time" in err


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b"x,x\n1,2\n"), ("a.csv", b"x,y\n1\n"), ("a.csv", b""), ("a.jsonl", b"\n")]
)
def test_files_that_are_none_end_with_78(run, folder, name, content):
    (folder / name).write_bytes(content)
    assert str(folder / name) in run("--from", folder / name, code=78)[1]


def test_a_file_that_is_not_there_ends_with_78(run, folder):
    assert "cannot be read" in run("--from", folder / "nope.csv", code=78)[1]


def test_labels_of_a_topic_are_a_matter_of_usage(run):
    assert "topics hold no labels" in run("--from", "samples", "--label", "late", code=2)[1]


# -- events of files --------------------------------------------------------------------------------------------------


def vector_rows(settings, path):
    return [row for part in file_parts(path, settings, None) for row in part.events.fields["v"].tolist()]


def test_a_vector_comes_from_elements_lists_and_matrices(tmp_path):
    settings = pipeline_settings({"field": "v", "size": 3, "dtype": "float64"}, event_time="at", id="name")
    wanted = [[1.0, 2.0, 3.5], [4.0, 5.0, 6.0]]
    (tmp_path / "a.csv").write_text("v[0],v[2],v[1]\n1,3.5,2\n4,6,5\n")
    (tmp_path / "a.jsonl").write_text('{"v":[1,2,3.5]}\n{"v":[4,5,6]}\n')
    np.savez(tmp_path / "a.npz", v=np.array(wanted))
    for suffix in ("csv", "jsonl", "npz"):
        assert vector_rows(settings, tmp_path / f"a.{suffix}") == wanted


def test_cells_are_read_as_the_features_type(tmp_path):
    features = [
        {"name": "code", "dtype": "string"},
        {"name": "n", "dtype": "int32", "default": 0},
        {"name": "ok", "dtype": "bool"},
        {"name": "x", "dtype": "float32", "default": 0},
    ]
    (tmp_path / "a.csv").write_text("code,n,ok,x\n007,3,true,1e3\n12,,0,\n13,4.5,1,2\n14,5,maybe,2\n15,6,1,NA\n")
    (part,) = file_parts(tmp_path / "a.csv", pipeline_settings(features), None)
    fields = part.events.fields
    assert part.events.row == [0, 1, 4]
    assert fields["code"] == ["007", "12", "15"]
    assert fields["n"].tolist()[::2] == [3, 6]
    assert np.isnan(fields["n"][1])
    assert fields["ok"].tolist() == [1, 0, 1]
    assert fields["x"][0] == 1000
    assert np.isnan(fields["x"][1:]).all()
    assert [(reject.row, reject.feature) for reject in part.rejects] == [(2, "n"), (3, "ok")]


# -- rows -------------------------------------------------------------------------------------------------------------


def scored(times, **more):
    return ScoredRows(columns={"x": np.asarray(times, float)}, event_time_ms=np.asarray(times, np.int64), **more)


def test_the_store_keeps_the_newest_rows_in_order():
    times = np.random.default_rng(1).permutation(10_000)
    store = RowStore(1000)
    for part in np.split(times, 20):
        store.add(scored(part, labels=part.tolist()))
    rows = store.all()
    assert rows.event_time_ms.tolist() == rows.columns["x"].tolist() == rows.labels == list(range(9000, 10_000))
    assert store.seen == 10_000


def test_rows_of_several_levels_become_those_of_the_coarsest():
    seed = np.uint64(stream_seed("t", 0))
    offset = np.arange(8000)
    drawn = draws(seed, offset)
    coarse = offset[4000:][drawn[4000:] < np.uint64(1 << 61)]
    store = RowStore(10_000)
    store.add(scored(offset[:4000], draws=drawn[:4000]))
    store.add(scored(coarse, draws=drawn[coarse], level=3))
    assert store.all().event_time_ms.tolist() == offset[drawn < np.uint64(1 << 61)].tolist()


# -- labels -----------------------------------------------------------------------------------------------------------


def test_a_binary_model_is_calibrated_and_measured():
    rng = np.random.default_rng(2)
    chance = rng.random(4000)
    truth = (rng.random(4000) < chance**2).astype(int)
    labels = [None, "broken", 7, *truth.tolist()[3:]]
    found = judge({"output.p": chance}, labels, LabelSettings())
    assert (found.rows, found.unusable) == (3997, 2)
    assert found.performance["accuracy"] == pytest.approx(((chance >= 0.5) == truth)[3:].mean(), abs=1e-6)
    assert abs(found.calibration.apply(np.array([0.5]))[0] - 0.25) < 0.08
    sklearn = pytest.importorskip("sklearn.metrics")
    assert found.performance["auc"] == pytest.approx(sklearn.roc_auc_score(truth[3:], chance[3:]), abs=0.01)
    assert found.performance["log_loss"] == pytest.approx(sklearn.log_loss(truth[3:], chance[3:]), abs=1e-6)


def test_names_of_classes_and_numbers_are_labels_too():
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3]])
    found = judge(
        {"output.p": scores},
        ["red", "green", "blue"],
        LabelSettings(task="multiclass", classes=["red", "green", "blue"]),
    )
    assert found.performance["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert found.performance["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.3]).mean(), abs=1e-5)
    assert len(found.calibration.maps) == 3
    found = judge({"output.y": np.array([1.0, 12.0])}, ["2", 10], None)
    assert found.performance == {"mae": 1.5, "rmse": pytest.approx(1.58114), "bias": 0.5}
    assert found.calibration is None


def test_without_any_label_there_is_nothing_to_tell():
    found = judge({"output.p": np.array([0.5])}, [None], None)
    assert (found.rows, found.performance, found.calibration) == (0, {}, None)


def test_outputs_that_are_texts_have_no_calibration():
    with pytest.raises(ContractError, match="holds texts"):
        judge({"output.p": TextColumn.of(["a"])}, [1], None)


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_a_range_is_read_from_times_and_offsets():
    found = parse_range("2013-01-01", "1357084800000", ["a.b:2:10-20", "a.b:0:5-6"])
    assert (found.since_ms, found.until_ms) == (1_356_998_400_000, 1_357_084_800_000)
    assert found.offsets == {("a.b", 2): (10, 20), ("a.b", 0): (5, 6)}
    assert found.holds(np.array([1_356_998_399_999, 1_356_998_400_000, 1_357_084_800_000])).tolist() == [
        False,
        True,
        False,
    ]
    ago = parse_range("-5m", None).since_ms
    assert abs(ago - (time.time() - 300) * 1000) < 60_000


@pytest.mark.parametrize(
    ("since", "until", "offsets"),
    [
        ("soon", None, []),
        ("beginning", None, []),
        ("2013-02-01", "2013-01-01", []),
        (None, None, ["a:1:20-10"]),
        (None, None, ["a:1:5"]),
        (None, None, ["a:1:0-5", "a:1:5-9"]),
    ],
)
def test_what_is_no_range_is_refused(since, until, offsets):
    with pytest.raises(typer.BadParameter):
        parse_range(since, until, offsets)


def test_offsets_are_read_until_all_are_covered():
    passed = _Passed(Range(offsets={("t", 0): (5, 20), ("t", 1): (0, 10)}))
    assert not passed.note(sample_chunk(first=0, end=20), 0)
    assert not passed.note(sample_chunk(partition=1, first=0, end=9), 0)
    assert passed.note(sample_chunk(partition=1, first=9, end=30), 0)


def test_a_live_stream_is_read_until_every_partition_is_past_the_end():
    hour = 3_600_000
    passed = _Passed(Range(until_ms=10 * hour))
    assert not passed.note(sample_chunk(partition=0, at_ms=9 * hour), 9 * hour)
    assert not passed.note(sample_chunk(partition=1, at_ms=9 * hour), 9 * hour)
    assert not passed.note(sample_chunk(partition=0, at_ms=11 * hour), 11 * hour)
    assert not passed.note(sample_chunk(partition=1, first=9, end=99, at_ms=10 * hour), 11 * hour - 1)
    assert passed.note(sample_chunk(partition=0, at_ms=11 * hour), 11 * hour)


def test_a_replayed_stream_is_read_to_its_end():
    passed = _Passed(Range(until_ms=1000))
    assert not any(passed.note(sample_chunk(at_ms=at_ms), 1_700_000_000_000) for at_ms in (0, 2000, 10**9))


def test_a_span_without_rows_covers_its_offsets():
    assert isinstance(sample_chunk(rows=0).spans[0], Span)
