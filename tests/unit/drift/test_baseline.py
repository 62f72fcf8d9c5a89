"""References: made from rows, written, read back, refused."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.config.drift_settings import SegmentSettings
from streamserve.drift.baseline import ROWS_AT_ONCE, BaselineOptions, build
from streamserve.drift.calibration import Calibration
from streamserve.drift.cells import Cells
from streamserve.drift.chunk import TextColumn
from streamserve.drift.reference import FILE, Reference
from streamserve.drift.schema import BINS, CELLS, MISSING, OTHER, UNSEEN
from streamserve.errors import ModelCorrupt, ModelNotFound
from streamserve.registry.references import FolderReferences

OPTIONS = BaselineOptions(model="m", version="3", pane_s=10, created_ms=1_700_000_000_000, source="a test")


def rows(n: int, seed: int = 1) -> tuple[dict, np.ndarray]:
    """n rows with gaps, a vector and texts, 50 a pane of ten seconds."""
    rng = np.random.default_rng(seed)
    temp = rng.normal(20, 5, n)
    temp[rng.random(n) < 0.1] = np.nan
    colour = [None if u < 0.05 else f"c{int(40 * u * u)}" for u in rng.random(n)]
    columns = {
        "temp": temp,
        "colour": TextColumn.of(colour),
        "v": rng.exponential(size=(n, 3)).astype(np.float32),
        "day": rng.integers(1, 8, n),
        "output.p": rng.random(n).astype(np.float32),
    }
    return columns, np.arange(n, dtype=np.int64) * 200


def test_counts_are_those_of_a_plain_loop():
    columns, times = rows(4000)
    reference = build(columns, times, OPTIONS)

    assert reference.names == ("temp", "colour", "v[0]", "v[1]", "v[2]", "day", "output.p")
    values = [
        columns["temp"],
        columns["v"][:, 0],
        columns["v"][:, 1],
        columns["v"][:, 2],
        columns["day"],
        columns["output.p"],
    ]
    numeric = [column for column in reference.columns if column.kind == "numeric"]
    for column, cells in zip(numeric, values, strict=True):
        wanted = [0] * CELLS
        for value in cells.tolist():
            wanted[MISSING if math.isnan(value) else sum(value > edge for edge in column.edges)] += 1
        assert column.counts == wanted
    colour = reference.columns[1]
    wanted = [0] * CELLS
    for text in columns["colour"].texts():
        place = MISSING if text is None else colour.categories.index(text) if text in colour.categories else OTHER
        wanted[place] += 1
    assert colour.counts == wanted
    assert len(colour.categories) == BINS
    assert colour.known_all
    assert wanted[OTHER] > 0


def test_moments_are_those_of_the_finite_values():
    columns, times = rows(1000)
    column = build(columns, times, OPTIONS).columns[0]
    finite = columns["temp"][np.isfinite(columns["temp"])]
    assert (column.mean, column.std) == pytest.approx((finite.mean(), finite.std()))
    assert (column.low, column.high) == (finite.min(), finite.max())


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_matter(seed):
    columns, times = rows(600)
    order = np.random.default_rng(seed).permutation(600)
    shuffled = {
        name: TextColumn.of([column.texts()[i] for i in order]) if isinstance(column, TextColumn) else column[order]
        for name, column in columns.items()
    }
    one, two = build(columns, times, OPTIONS).document, build(shuffled, times[order], OPTIONS).document
    assert one.columns == two.columns
    assert one.dispersion == two.dispersion


def test_rows_beyond_one_part_are_counted_too():
    n = ROWS_AT_ONCE + 17
    reference = build({"x": np.arange(n) % 5}, np.arange(n, dtype=np.int64), OPTIONS)
    assert sum(reference.columns[0].counts) == n
    assert reference.columns[0].counts[:5] == np.bincount(np.arange(n) % 5).tolist()


def test_the_reference_places_its_own_rows_as_it_counted_them():
    columns, times = rows(800)
    reference = build(columns, times, OPTIONS)
    codes, _ = Cells(reference.columns).of(columns, 800)
    for i, column in enumerate(reference.columns):
        assert np.bincount(codes[:, i], minlength=CELLS).tolist() == column.counts
    assert reference.counts[:, UNSEEN].sum() == 0


def test_numbers_may_be_taken_as_categories():
    columns, times = rows(500)
    columns["day"] = np.where(columns["day"] == 7, np.nan, columns["day"])
    reference = build(columns, times, _with(categorical=frozenset({"day"})))
    day = reference.columns[reference.names.index("day")]
    assert day.kind == "categorical"
    assert set(day.categories) == {"1", "2", "3", "4", "5", "6"}
    assert day.counts[MISSING] == np.isnan(columns["day"]).sum()


def test_segments_are_counted_on_their_own():
    columns, times = rows(1000)
    reference = build(columns, times, _with(segments=(SegmentSettings(feature="day", values=["2", "6"]),)))
    assert set(reference.document.segments) == {"day=2", "day=6"}
    sample = reference.segment("day=6")
    mine = np.flatnonzero(columns["day"] == 6)
    codes, _ = Cells(reference.columns).of(
        {name: _rows_of(column, mine) for name, column in columns.items()}, len(mine)
    )
    assert [np.bincount(codes[:, i], minlength=CELLS).tolist() for i in range(7)] == sample.counts.tolist()
    assert reference.segment("day=1") is None


def test_dispersion_knows_panes_that_differ():
    rng = np.random.default_rng(3)
    times = np.arange(20_000, dtype=np.int64) * 100  # 200 panes of 100 rows
    calm = build({"x": rng.normal(size=20_000)}, times, OPTIONS).dispersion
    moving = build({"x": rng.normal(size=20_000) + np.repeat(rng.normal(size=200), 100)}, times, OPTIONS).dispersion
    assert calm.panes == moving.panes == 200
    assert calm.inflation(1).peak[0] < 4
    assert moving.inflation(1).peak[0] > 20


def test_rows_of_one_moment_are_cut_into_blocks():
    assert (
        build({"x": np.random.default_rng(1).normal(size=3000)}, np.zeros(3000, np.int64), OPTIONS).dispersion.panes
        == 30
    )


@pytest.mark.parametrize(("columns", "n"), [({}, 5), ({"x": np.zeros(0)}, 0)])
def test_no_rows_and_no_columns_are_refused(columns, n):
    with pytest.raises(ValueError, match="needs rows and columns"):
        build(columns, np.zeros(n, np.int64), OPTIONS)


def test_one_row_and_a_column_without_any_value_make_a_reference():
    reference = build({"x": np.array([np.nan]), "t": TextColumn.of([None])}, np.array([5]), OPTIONS)
    assert [column.counts[MISSING] for column in reference.columns] == [1, 1]
    assert reference.std.tolist() == [1, 1]
    assert Reference.from_json(reference.to_json(), "x").hash == reference.hash


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_reference_survives_its_file():
    columns, times = rows(3000)
    scores = columns["output.p"].astype(np.float64)
    labels = (np.random.default_rng(5).random(3000) < scores).astype(np.float64)
    options = _with(
        importance={"temp": 0.75, "v[1]": 0.25},
        calibration=Calibration.fit(scores, labels),
        performance={"accuracy": 0.9},
        segments=(SegmentSettings(feature="day"),),
    )
    made = build(columns, times, options)
    read = Reference.from_json(made.to_json(), "reference.json")

    assert read.document == made.document
    assert read.hash == made.hash
    for name in ("counts", "centers", "std", "ordered", "importance"):
        assert (getattr(read, name) == getattr(made, name)).all()
    assert read.importance.tolist() == [0.75, 0, 0, 0.25, 0, 0, 0]
    assert (read.calibration.apply(scores) == made.calibration.apply(scores)).all()
    assert (read.dispersion.curve == made.dispersion.curve).all()
    assert not read.provisional


def test_the_hash_tells_references_apart():
    columns, times = rows(200)
    made = build(columns, times, OPTIONS)
    assert build(columns, times, OPTIONS).hash == made.hash
    assert (
        len(
            {
                made.hash,
                build(columns, times, _with(provisional=True)).hash,
                build(columns, times, _with(version="4")).hash,
            }
        )
        == 3
    )


def test_importance_is_none_when_no_column_has_one():
    columns, times = rows(100)
    assert build(columns, times, OPTIONS).importance is None


def test_a_provisional_one_says_so():
    columns, times = rows(100)
    assert build(columns, times, _with(provisional=True)).provisional


def _changed(change) -> bytes:
    columns, times = rows(300)
    document = orjson.loads(build(columns, times, OPTIONS).to_json())
    change(document)
    return orjson.dumps(document)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=2), "format 2; this release reads 1"),
        (lambda d: d.pop("columns"), "columns"),
        (lambda d: d.update(columns=[]), "no columns or no rows"),
        (lambda d: d.update(rows=0), "no columns or no rows"),
        (lambda d: d["columns"][0].update(counts=[1, 2]), "column temp does not fit itself"),
        (lambda d: d["columns"][0]["counts"].__setitem__(3, -1), "column temp does not fit itself"),
        (lambda d: d["columns"][0]["counts"].__setitem__(3, 2**60), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(edges=[2.0, 1.0]), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(edges=list(range(40))), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(centers=[0.0]), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(std=-1.0), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(importance=-0.5), "column temp does not fit itself"),
        (lambda d: d["columns"][0].update(kind="picture"), "column temp does not fit itself"),
        (
            lambda d: d["columns"][1].update(categories=[f"x{i}" for i in range(40)]),
            "column colour does not fit itself",
        ),
        (lambda d: d["columns"][1].update(categories=["x", "x"]), "column colour does not fit itself"),
        (lambda d: d["columns"].append(d["columns"][0]), "column temp stands there twice"),
        (lambda d: d["columns"][0].update(mean="warm"), "mean"),
        (lambda d: d.update(dispersion={"panes": 1}), ""),
        (lambda d: d.update(dispersion={**d["dispersion"], "spread": [[0.1]]}), "dispersion"),
        (lambda d: d.update(dispersion={**d["dispersion"], "curve": [[["a"]]]}), ""),
        (lambda d: d.update(dispersion={**d["dispersion"], "curve": d["dispersion"]["curve"][:1]}), "dispersion"),
        (lambda d: d.update(dispersion={**d["dispersion"], "peak": [[1.0]]}), "dispersion"),
        (lambda d: d.update(calibration={"kind": "isotonic", "maps": []}), "calibration without maps"),
        (lambda d: d.update(calibration={"kind": "platt", "maps": []}), "kind"),
        (lambda d: d.update(segments={"day=1": [[1]]}), "segment day=1"),
    ],
)
def test_a_document_that_does_not_hold_together_is_refused(change, says):
    with pytest.raises(ModelCorrupt, match=r"here/reference.json is no drift reference: .*drift baseline") as refused:
        Reference.from_json(_changed(change), "here/reference.json")
    assert says in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"format": 1}', b'"x"' * 9])
def test_bytes_that_are_no_document_are_refused(data):
    with pytest.raises(ModelCorrupt, match="is no drift reference"):
        Reference.from_json(data, "x")


# -- beside the model -------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    (tmp_path / "m" / "3").mkdir(parents=True)
    return tmp_path


def test_a_reference_stands_beside_its_version(root):
    columns, times = rows(300)
    made = build(columns, times, OPTIONS)
    store = FolderReferences(root)

    assert store.find("m", "3") is None
    assert store.write(made) == root / "m" / "3" / FILE
    assert store.find("m", "3").hash == made.hash
    assert [path.name for path in (root / "m" / "3").iterdir()] == [FILE]


def test_there_is_none_of_a_version_that_is_not_there(root):
    store = FolderReferences(root)
    columns, times = rows(100)
    assert store.find("m", "4") is None
    assert store.find("../m", "3") is None
    with pytest.raises(ModelNotFound, match="has no m 4"):
        store.write(build(columns, times, _with(version="4")))


def test_a_broken_file_is_named(root):
    (root / "m" / "3" / FILE).write_bytes(b"{")
    with pytest.raises(ModelCorrupt, match=r"m/3/reference\.json is no drift reference"):
        FolderReferences(root).find("m", "3")


def _with(**changes) -> BaselineOptions:
    fields = {name: getattr(OPTIONS, name) for name in OPTIONS.__slots__}
    return BaselineOptions(**{**fields, **changes})


def _rows_of(column, index):
    if isinstance(column, TextColumn):
        return TextColumn(codes=column.codes[index], values=column.values)
    return column[index]
