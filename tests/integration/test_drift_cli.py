"""`drift baseline` and `drift report` against a real broker, called as a user calls them."""

from __future__ import annotations

import json
import shlex
import socket
import time
from dataclasses import replace

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from streamserve.cli import main
from streamserve.cli.drift_files import file_parts
from streamserve.cli.drift_scoring import Scorer, personal_of
from streamserve.composition.models import resolve_model
from streamserve.config.loading import load
from streamserve.demo.flights import Flights
from streamserve.drift.chunk import RejectCount, TextColumn, encode
from streamserve.drift.levels import draws, stream_seed
from streamserve.registry.references import FolderReferences
from tests.pipelines import drained, environment, flights_folder, free_port, running, wait_ready
from tests.samples import sample_chunk
from tests.services import create_topic, produce, read_all, settled, unique

ROWS = 12_000
CHUNK = 300
DRIFT = "drift: {pane_s: 3600, windows_s: [86400], labels: {task: binary}, segments: [{feature: origin}]}\n"


class Pipeline:
    """A copy of the demo's folder with topics of its own, and its first departures as rows."""

    def __init__(self, folder, bootstrap: str) -> None:
        self.folder, self.bootstrap = folder, bootstrap
        self.name = flights_folder(folder)
        (folder / "models/flight-delay/1/reference.json").unlink(missing_ok=True)
        self.config = folder / "streamserve.yaml"
        before, _, _ = self.config.read_text().partition("\ndrift:")
        self.config.write_text(f"{before}\n{DRIFT}")
        self.settings = load(self.config, {"kafka.bootstrap.servers": bootstrap}).settings
        self.samples = create_topic(bootstrap, f"{self.name}.samples", 2)
        self.events = f"{self.name}.departures"
        self.file = folder / "rows.jsonl"
        self.file.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in Flights.load().events(0, ROWS)))
        with Scorer(self.settings, resolve_model(self.settings), personal_of(self.settings)) as scorer:
            self.rows = [rows for part in file_parts(self.file, self.settings, None) for rows in scorer.score(part)]
        self.times = np.concatenate([rows.event_time_ms for rows in self.rows])

    def reference(self):
        return FolderReferences(self.folder / "models").find("flight-delay", "1")

    def columns(self, start: int, stop: int, **changed) -> dict:
        """Features and outputs of some rows; `changed` holds functions of columns."""
        found = {}
        for name in self.rows[0].columns:
            if isinstance(self.rows[0].columns[name], TextColumn):
                texts = [text for rows in self.rows for text in rows.columns[name].texts()]
                found[name] = TextColumn.of(texts[start:stop])
            else:
                found[name] = np.concatenate([rows.columns[name] for rows in self.rows])[start:stop]
        return found | {name: change(found[name]) for name, change in changed.items()}

    def chunks(self, start: int = 0, stop: int = ROWS, *, partition: int = 0, **more) -> list[bytes]:
        """Chunks of the rows from `start` to `stop`, which are the offsets of a partition of the events."""
        changed = more.pop("changed", {})
        columns = self.columns(start, stop, **changed)
        found = []
        for first in range(start, stop, CHUNK):
            n = min(CHUNK, stop - first)
            part = slice(first - start, first - start + n)
            chunk = sample_chunk(
                topic=self.events,
                partition=partition,
                first=first,
                rows=n,
                pipeline=self.name,
                model="flight-delay",
                columns={name: c.take(part) if isinstance(c, TextColumn) else c[part] for name, c in columns.items()},
                **more,
            )
            found.append(encode(replace(chunk, event_time_ms=self.times[first : first + n])))
        return found

    def sample(self, values: list[bytes]) -> None:
        """Write chunks, after a transaction that is given up."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "transactional.id": unique("t")})
        producer.init_transactions()
        for lot, commit in ((self.chunks(0, 900), False), (values, True)):
            producer.begin_transaction()
            for value in lot:
                producer.produce(self.samples, value, b"flight-delay", 1)
                producer.poll(0)
            if commit:
                producer.commit_transaction()
            else:
                producer.flush()
                producer.abort_transaction()
        settled(self.bootstrap, self.samples)


@pytest.fixture
def pipeline(kafka, tmp_path):
    return Pipeline(tmp_path, kafka.bootstrap)


@pytest.fixture
def run(pipeline, capsys):
    """Calls a verb of `drift`; returns stdout and stderr."""

    def call(*arguments: object, code: int = 0, bootstrap: str | None = None):
        servers = f"kafka.bootstrap.servers={bootstrap or pipeline.bootstrap}"
        with pytest.raises(SystemExit) as ended:
            main(["drift", *map(str, arguments), "-c", str(pipeline.config), "--set", servers])
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, out + err
        assert "Traceback" not in err
        return out, err

    return call


def same(one, two) -> bool:
    """All columns and the dispersion alike, to the bit."""
    assert one.names == two.names
    for mine, other in zip(one.columns, two.columns, strict=True):
        assert mine == other
    return one.document.dispersion == two.document.dispersion


def test_samples_events_and_a_file_of_the_same_rows_give_the_same_reference(pipeline, run):
    run("baseline", "--from", pipeline.file)
    from_file = pipeline.reference()

    chunks = pipeline.chunks()
    pipeline.sample([*chunks[:5], *pipeline.chunks(0, 600, version="2"), b"no chunk", *chunks[3:]])
    out, err = run("baseline", "--from", "samples")
    assert same(pipeline.reference(), from_file)
    assert f"{ROWS:,} from the topic {pipeline.samples}" in out
    assert "600 rows are of version 2" in err
    assert "1 records of" in err

    create_topic(pipeline.bootstrap, pipeline.events, 3)
    lines = pipeline.file.read_bytes().splitlines()
    produce(pipeline.bootstrap, pipeline.events, [*lines, b"no event"])
    out, _ = run("baseline", "--from", pipeline.events, "--format", "json")
    assert same(pipeline.reference(), from_file)
    assert [(r["stage"], r["reason"], r["count"]) for r in json.loads(out)["rejects"]] == [("decode", "decode", 1)]


def test_a_slice_of_time_is_read_in_all_three(pipeline, run):
    since, until = int(pipeline.times[3000]), int(pipeline.times[9000])
    count = int(((pipeline.times >= since) & (pipeline.times < until)).sum())
    pipeline.sample(pipeline.chunks())
    create_topic(pipeline.bootstrap, pipeline.events, 3)
    produce(pipeline.bootstrap, pipeline.events, pipeline.file.read_bytes().splitlines())
    found = []
    for source in (pipeline.file, "samples", pipeline.events):
        run("baseline", "--from", source, "--since", since, "--until", until)
        found.append(pipeline.reference())
    assert [each.rows for each in found] == [count] * 3
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_what_a_worker_samples_is_what_a_reference_is_made_of(pipeline, run):
    for topic in (pipeline.settings.output.topic, pipeline.settings.dead_letter.topic):
        create_topic(pipeline.bootstrap, topic, 3)
    create_topic(pipeline.bootstrap, pipeline.events, 3)
    lines = [*pipeline.file.read_bytes().splitlines()[:5000], b"no event"]
    produce(pipeline.bootstrap, pipeline.events, lines)
    port, log = free_port(), pipeline.folder / "worker.log"
    text = pipeline.config.read_text().replace("cache: {url:", "# cache: {url:")
    pipeline.config.write_text(text.replace("drift: {", "drift: {samples_per_s: all, "))
    env = environment(KAFKA_BOOTSTRAP=pipeline.bootstrap)
    with running(["streamserve", "run", "--set", f"http.port={port}"], pipeline.folder, env, log) as worker:
        wait_ready(port, worker, log)
        deadline = time.monotonic() + 30
        while len(read_all(pipeline.bootstrap, pipeline.settings.output.topic)) < 5000:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        drained(worker, log)

    run("baseline", "--from", pipeline.events)
    from_events = pipeline.reference()
    out, _ = run("baseline", "--from", "samples")
    assert from_events.rows == 5000
    assert same(pipeline.reference(), from_events)
    assert "1 rows that a worker rejects" in out
    said = json.loads(run("report", "--format", "json")[0])
    assert (said["rows"], said["drifted"], len(said["rejects"])) == (5000, [], 1)
    assert all(column["p"] == 1 and column["psi"] == 0 for column in said["columns"])


def test_samples_of_several_levels_become_those_of_the_coarsest(pipeline, run):
    keep = np.flatnonzero(draws(np.uint64(stream_seed(pipeline.events, 0)), np.arange(6000, ROWS)) < np.uint64(1 << 62))
    thin = _thinned(pipeline, 6000 + keep)
    pipeline.sample([*pipeline.chunks(0, 6000), thin])
    run("baseline", "--from", "samples")
    wanted = (draws(np.uint64(stream_seed(pipeline.events, 0)), np.arange(ROWS)) < np.uint64(1 << 62)).sum()
    assert pipeline.reference().rows == wanted


def _thinned(pipeline, index) -> bytes:
    columns = {
        name: TextColumn.of([column.texts()[i] for i in index.tolist()])
        if isinstance(column, TextColumn)
        else column[index]
        for name, column in pipeline.columns(0, ROWS).items()
    }
    chunk = sample_chunk(
        topic=pipeline.events,
        first=6000,
        end=ROWS,
        rows=len(index),
        pipeline=pipeline.name,
        model="flight-delay",
        columns=columns,
        level=2,
    )
    return encode(replace(chunk, offset=index.astype(np.int64), event_time_ms=pipeline.times[index]))


def test_rows_of_the_reference_itself_do_not_drift(pipeline, run):
    run("baseline", "--from", pipeline.file)
    rejects = (RejectCount("enrich", "schema", "carrier", 7),)
    chunks = pipeline.chunks()
    again = pipeline.chunks(0, 600)
    pipeline.sample(
        [*chunks[:10], *again, *chunks[10:], *pipeline.chunks(0, 300, partition=1, rejects=rejects), b"\x00"]
    )

    out, err = run("report")
    assert "None of 17 columns drifted." in out
    assert f"{ROWS + 300:,} rows" in out
    assert "7 records rejected: schema carrier (enrich)" in out
    assert "600 rows stood there twice and count once" in err
    assert "1 records are no sample chunks" in err


def test_a_drift_ends_with_3_and_is_told_in_every_form(pipeline, run):
    run("baseline", "--from", pipeline.file)
    pipeline.sample(
        pipeline.chunks(
            6000,
            ROWS,
            changed={"dep_delay": lambda column: column + 60, "carrier": lambda _: TextColumn.of(["B6"] * 6000)},
        )
    )
    page = pipeline.folder / "report.html"

    out, err = run("report", "--html", page, "--top", 5, code=3)
    table = [line.split() for line in out.splitlines()]
    ranked = [line[0] for line in table[table.index([]) + 2 :]][:5]
    assert {"dep_delay", "carrier"} <= set(ranked[:2])
    assert "... and 12 more" in out
    assert str(page) in err
    assert "dep_delay" in page.read_text()

    out, _ = run("report", "--format", "json", code=3)
    said = json.loads(out)
    assert {"dep_delay", "carrier"} <= set(said["drifted"])
    assert said["span"] == {pipeline.events: {"0": [6000, ROWS]}}
    assert said["topic"] == pipeline.samples


def test_the_offsets_told_make_the_same_report_again_when_more_has_come(pipeline, run):
    run("baseline", "--from", pipeline.file)
    pipeline.sample(pipeline.chunks(0, 6000))
    since, until = int(pipeline.times[1500]), int(pipeline.times[4500])
    first = json.loads(run("report", "--since", since, "--until", until, "--format", "json")[0])
    assert first["rows"] == int(((pipeline.times >= since) & (pipeline.times < until)).sum())

    pipeline.sample([*pipeline.chunks(6000, ROWS), *pipeline.chunks(0, 6000, partition=1)])
    words = shlex.split(first["again"])
    assert words[:3] == ["streamserve", "drift", "report"]
    assert "kafka" not in first["again"]
    second = json.loads(run(*words[2:], "--format", "json")[0])
    for key in ("rows", "columns", "span", "first_ms", "last_ms", "reference"):
        assert second[key] == first[key]
    both = json.loads(run("report", "--since", since, "--until", until, "--format", "json")[0])
    assert both["rows"] == 2 * first["rows"]


def test_offsets_and_segments_choose_rows(pipeline, run):
    run("baseline", "--from", pipeline.file)
    pipeline.sample(pipeline.chunks())
    arguments = ["--offsets", f"{pipeline.events}:0:100-4000", "--format", "json"]
    assert json.loads(run("report", *arguments)[0])["rows"] == 3900
    found = json.loads(run("report", *arguments, "--segment", "origin=JFK")[0])
    origins = pipeline.columns(100, 4000)["origin"].texts()
    assert found["rows"] == origins.count("JFK")
    assert found["segment"] == "origin=JFK"
    assert "there are origin=" in run("report", "--segment", "origin=SFO", code=78)[1]


def test_what_is_not_there_is_named(pipeline, run, unused_address):
    assert "has no reference to compare with" in run("report", code=78)[1]
    run("baseline", "--from", pipeline.file)
    assert "holds no samples of version 1" in run("report", code=1)[1]
    pipeline.sample(pipeline.chunks(0, 600, version="2"))
    assert "of others: 2 (600 rows)" in run("report", code=1)[1]
    assert "does not exist" in run("baseline", "--from", f"{pipeline.name}.nope", code=1)[1]
    assert "holds no rows of flight-delay 1" in run("baseline", "--from", "samples", code=78)[1]
    run("report", bootstrap=unused_address, code=69)


@pytest.fixture
def unused_address() -> str:
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
