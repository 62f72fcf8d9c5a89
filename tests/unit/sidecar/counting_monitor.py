"""A monitor that only counts: what the service does around a monitor can be seen on it exactly.

Every chunk's new rows are added to the model's total; every `PAGE_ROWS` rows are an alert, and every chunk with new
rows a state. A pure function of the chunks, like the real one, and it reads some chunks again after a restart.
"""

from __future__ import annotations

from collections import Counter

import orjson

from streamserve.drift.chunk import ChunkError, decode
from streamserve.drift.marks import Marks

PAGE_ROWS = 100


class Told:
    """An event."""

    def __init__(self, kind, model, **fields) -> None:
        self.kind = kind
        self.topic_role = {"alert": "alerts", "retrain": "alerts", "label_request": "samples"}.get(kind, "reports")
        self.key = model.encode()
        self.version = fields.get("version", "1")
        self._document = {"kind": kind, "model": model, "version": self.version, **fields}

    def json(self) -> bytes:
        return orjson.dumps(self._document)


class CountingMonitor:
    def __init__(self, settings, references) -> None:
        self.pipeline = settings.pipeline
        self.references = references
        self.rows = Counter()
        self.offsets = Counter()
        self.ids = Counter()
        self.label_counts = Counter()
        self.label_ids = Counter()
        self.chunks = Counter()
        self.told_to = {}
        self.marks = {}
        self.restored = None

    def restore(self, documents):
        starts = []
        self.restored = list(documents)
        for document in documents:
            if document["kind"] != "state":
                continue
            model = document["model"]
            self.rows[model] = document["rows_before"]
            self.marks[model] = Marks(document["marks_before"])
            self.told_to[model] = document["told"]
            starts.append(document["resume"])
        return min(starts, default=None)

    def rebuilt(self, labels):
        self.label_positions = dict(labels)

    def chunk(self, data, offset, wall_ms):
        assert wall_ms > 0
        try:
            chunk = decode(data)
        except ChunkError:
            self.chunks["broken"] += 1
            return []
        if chunk.pipeline != self.pipeline:
            self.chunks["foreign"] += 1
            return []
        model = chunk.model
        marks = self.marks.setdefault(model, Marks())
        before = (marks.to_document(), self.rows[model])
        fresh = int(marks.take(chunk)[0].sum())
        self.chunks["merged" if fresh else "duplicate"] += 1
        if not fresh:
            return []
        self.ids.update(chunk.id)
        self.rows[model] += fresh
        return self._tell(model, offset, before)

    def _tell(self, model, offset, before):
        """Alerts that are due and not told yet, and the state from which this chunk would be read again."""
        told = self.told_to.get(model, 0)
        due = self.rows[model] // PAGE_ROWS
        events = [self.alert(model, number) for number in range(told + 1, due + 1)]
        self.told_to[model] = max(told, due)
        marks_before, rows_before = before
        state = Told(
            "state",
            model,
            resume=offset,
            marks_before=marks_before,
            rows_before=rows_before,
            rows=self.rows[model],
            told=self.told_to[model],
        )
        return [*events, state]

    def alert(self, model, number):
        return Told(
            "alert",
            model,
            pipeline=self.pipeline,
            incident=f"{model}-{number}",
            sequence=0,
            alert="opened",
            severity="warning",
            title=f"{number * PAGE_ROWS} rows",
            at_ms=1000 * number,
            opened_ms=1000 * number,
        )

    def labels(self, records):
        for _, _, data in records:
            try:
                self.label_ids[orjson.loads(data)["id"]] += 1
            except (orjson.JSONDecodeError, KeyError, TypeError):
                self.label_counts["malformed"] += 1
            else:
                self.label_counts["joined"] += 1

    def overview(self, wall_ms):
        return {
            "state": "ok" if self.rows else "empty",
            "state_since_ms": None,
            "message": "counting",
            "budget": None,
            "models": [{"model": m, "version": "1", "newest_ms": 0, "rows": n} for m, n in self.rows.items()],
            "incidents": [],
            "traffic": None,
            "sidecar": {"chunks": self.chunks["merged"], "skipped": self.chunks["duplicate"], "bad": 0},
            "labels": dict(self.label_ids),
        }

    def column(self, model, version, window_s, segment, name):
        return None

    def metrics(self):
        rows = {"merged": sum(self.ids.values())}
        return {"chunks": self.chunks, "rows": rows, "labels": self.label_counts, "open_incidents": 0, "versions": []}
