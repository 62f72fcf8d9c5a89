"""The loader: what it accepts, whose value wins, and the exact words for every mistake."""

from __future__ import annotations

from textwrap import dedent

import pytest

from streamserve.config.loading import load, read_secret
from streamserve.errors import ConfigError

GOOD = """\
version: 1
pipeline: flights
kafka:
  bootstrap.servers: ${KAFKA_BOOTSTRAP:-localhost:9092}
input:
  topics: [flights.departures]
features:
  - {name: distance, min: 0, max: 6000}
model: {name: flight-delay}
output: {topic: flights.predictions}
dead_letter: {topic: flights.departures.dlq}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "streamserve.yaml"
        path.write_text(dedent(text))
        return path

    return write


def mistakes(path, overrides=None, environ=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides or {}, environ or {})
    return [str(problem).replace(f"{path}:", "").strip() for problem in caught.value.problems]


def test_a_minimal_file_loads_with_defaults(write):
    loaded = load(write(GOOD), {}, {})
    assert loaded.settings.engine.max_batch_size == 512
    assert loaded.settings.kafka == {"bootstrap.servers": "localhost:9092"}


def test_flag_beats_environment_beats_file_beats_default(write):
    path = write(GOOD + "workers: 2\nhttp: {port: 1}\nengine: {threads: 2}\n")
    environ = {"STREAMSERVE_WORKERS": "3", "STREAMSERVE_ENGINE__THREADS": "3"}
    loaded = load(path, {"engine.threads": "4"}, environ)
    settings = loaded.settings
    assert (settings.engine.threads, settings.workers, settings.http.port) == (4, 3, 1)
    keys = ("engine.threads", "workers", "http.port", "http.host")
    assert [loaded.provenance[key] for key in keys] == ["flag", "env", "file", "default"]


def test_every_value_in_the_settings_has_a_provenance(write):
    provenance = load(write(GOOD), {}, {}).provenance
    assert provenance["features[0].max"] == "file"
    assert provenance["kafka.bootstrap.servers"] == "file"
    assert provenance["cache"] == "default"


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("KAFKA__BOOTSTRAP_SERVERS", "b:1", ("kafka", "bootstrap.servers"), "b:1"),
        ("KAFKA__SASL_PASSWORD_FILE", "/x", ("kafka", "sasl.password_file"), "/x"),
        ("KAFKA__CONSUMER_FETCH_MIN_BYTES", "7", ("kafka", "consumer.fetch.min.bytes"), 7),
        ("INPUT__TOPICS", "a.b, c.d", ("input", "topics"), ["a.b", "c.d"]),
        ("INPUT__TOPICS", "[a.b]", ("input", "topics"), ["a.b"]),
        ("INPUT__KEY", "null", ("input", "key"), None),
        ("FEATURES__0__MAX", "7", ("features", 0, "max"), 7.0),
        ("FEATURES__0__DEFAULT", "1.5", ("features", 0, "default"), 1.5),
        ("OUTPUT__THRESHOLD", "{p: 0.5}", ("output", "threshold"), {"p": 0.5}),
        ("CACHE__TTL_S", "60", ("cache", "ttl_s"), 60),
        ("MODEL__VERSION", "3", ("model", "version"), 3),
        ("KAFKA_INSECURE_TLS", "true", ("kafka_insecure_tls",), True),
    ],
)
def test_a_variable_sets_a_key(write, variable, value, path, expected):
    found = load(write(GOOD), {}, {f"STREAMSERVE_{variable}": value}).settings.model_dump()
    for part in path:
        found = found[part]
    assert found == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STREAMSERVE_HTTP__PRT", "1", "STREAMSERVE_HTTP__PRT: http.prt: no such key (did you mean port?)"),
        (
            "STREAMSERVE_INPUT_FORMAT",
            "json",
            "STREAMSERVE_INPUT_FORMAT: input_format: no such key (between levels stands `__`)",
        ),
        ("STREAMSERVE_WORKERS", "x", "STREAMSERVE_WORKERS: workers: must be a whole number, not text"),
        ("STREAMSERVE_PIPELINE", "a\nb", "STREAMSERVE_PIPELINE: pipeline: the value holds a newline"),
        (
            "STREAMSERVE_KAFKA__GROUP_ID",
            "x",
            "STREAMSERVE_KAFKA__GROUP_ID: kafka.group.id: refused: the pipeline's name is the group (set `pipeline`)",
        ),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(write, variable, value, expected):
    assert mistakes(write(GOOD), environ={variable: value}) == [expected]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STREAMSERVE_SERVICE_HOST", "10.0.0.1"),
        ("STREAMSERVE_PORT", "tcp://10.0.0.1:80"),
        ("STREAMSERVE_FLIGHTS_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("STREAMSERVE_CACHE_DIR", "/x"),
    ],
)
def test_variables_of_kubernetes_and_of_other_parts_are_passed_over(write, name, value):
    assert load(write(GOOD), {}, {name: value}).settings.http.port == 8080


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            "pipeline: flights",
            "pipelin: flights",
            ["2:1: pipelin: unknown key (did you mean pipeline?)", "pipeline: is missing"],
        ),
        ("version: 1", "version: 2", ["1:10: version: must be 1"]),
        (
            "pipeline: flights",
            "pipeline: 7",
            ["2:11: pipeline: must be text, not a whole number (put it in quotes)"],
        ),
        (
            "topics: [flights.departures]",
            "topics: flights.departures",
            ["6:11: input.topics: must be a list, not text"],
        ),
        (
            "topics: [flights.departures]",
            "topics: [flights_departures]",
            ["6:12: input.topics[0]: must be letters, digits, `.` and `-`; a topic name never has `_`"],
        ),
        (
            "{name: distance, min: 0",
            "{name: distance, dtype: flaot32, min: low",
            [
                (
                    "8:29: features[0].dtype: must be one of float32, float64, int32, int64, bool, string "
                    "(did you mean float32?)"
                ),
                "8:43: features[0].min: must be a number, not text",
            ],
        ),
        (
            "model: {name: flight-delay}",
            "model: {}",
            ["9:1: model.name: is missing"],
        ),
        (
            "output: {topic: flights.predictions}",
            "output: {topic: p, threshold: {x: {as: 3}}}",
            [
                "10:32: output.threshold.x.at: is missing",
                "10:40: output.threshold.x.as: must be text, not a whole number (put it in quotes)",
            ],
        ),
        (
            "output: {topic: flights.predictions}",
            "output: {topic: p, post: {s: {kind: softmx, of: x}, t: {of: x}}}",
            [
                "10:37: output.post.s.kind: must be one of softmax, argmax, top_k (did you mean softmax?)",
                "10:53: output.post.t.kind: is missing",
            ],
        ),
        (
            "model: {name: flight-delay}",
            "model: {name: m}\nhooks: {before: {path: a.py, sha256: abc, function: 1x}}",
            [
                "10:38: hooks.before.sha256: must be 64 hexadecimal digits in lower case, as `sha256sum` prints them",
                "10:53: hooks.before.function: must be the name of a function",
            ],
        ),
        (
            "version: 1",
            "version: 1\npipeline: x",
            ["3:1: pipeline: given twice, first in line 2"],
        ),
        (
            "localhost:9092}",
            "localhost:9092}\n  client.id: ${NOPE}",
            ["5:14: kafka.client.id: the variable NOPE is not set (set it, or give a default: ${NOPE:-value})"],
        ),
        (
            "localhost:9092}",
            "localhost:9092}\n  client.id: ${NOPE:?say who you are}",
            ["5:14: kafka.client.id: the variable NOPE is needed: say who you are"],
        ),
        (
            "pipeline: flights",
            "pipeline: !!python/name:os.system x",
            ["2:11: pipeline: the tag `python/name:os.system` is not allowed (plain values only)"],
        ),
    ],
)
def test_a_mistake_in_the_file_has_its_line_and_column(write, before, after, expected):
    assert before in GOOD
    found = mistakes(write(GOOD.replace(before, after)))
    assert found == expected


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(write):
    text = (
        GOOD.replace("version: 1", "version: 9")
        .replace("max: 6000", "max: far")
        .replace("topic: flights.p", "tpoic: p")
    )
    assert [line.split(":")[0] for line in mistakes(write(text))] == ["1", "8", "10", "10"]


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or directory .*streamserve init makes one"):
        load(tmp_path / "none.yaml", {}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"[1, 2]", "must hold a mapping"),
        (b"a: [", "not YAML"),
        (b"a: \xff", "not UTF-8 text"),
        (b"a: 1\n---\nb: 2\n", "more than one YAML document"),
        (b"#" * (1 << 21), "larger than 1 MiB"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: &a [*a]", "nested|recursive|not YAML"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + b"\n".join(b"%c: &%c [%s]" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(98, 104)),
            "more than 50000 values",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_problem(tmp_path, content, message):
    path = tmp_path / "streamserve.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load(path, {}, {})


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("${A}", {"A": "1"}, 1),
        ('"${A}"', {"A": "1"}, "1"),
        ("${A:-b}", {"A": ""}, "b"),
        ("x-${A}-$$-$5", {"A": "${B}"}, "x-${B}-$-$5"),
    ],
)
def test_variables_are_replaced_once_and_typed_as_if_written(write, text, environ, expected):
    path = write(GOOD.replace("localhost:9092}", f"localhost:9092}}\n  client.id: {text}"))
    assert load(path, {}, environ).settings.kafka["client.id"] == expected


def test_a_newline_in_a_variable_is_refused(write):
    path = write(GOOD.replace("localhost:9092}", "localhost:9092}\n  client.id: ${A}"))
    assert "holds a newline" in mistakes(path, environ={"A": "x\ny: z"})[0]


def test_relative_paths_are_relative_to_the_file(write, tmp_path):
    path = write(GOOD.replace("localhost:9092}", "localhost:9092}\n  ssl.ca.location: ca.pem") + "state_dir: s\n")
    settings = load(path, {}, {}).settings
    assert settings.model.repository == str(tmp_path / "models")
    assert settings.state_dir == str(tmp_path / "s")
    assert settings.kafka["ssl.ca.location"] == str(tmp_path / "ca.pem")


def test_anchors_and_merge_keys_work(write):
    text = GOOD.replace(
        "  - {name: distance, min: 0, max: 6000}", "  - &a {name: distance, min: 0}\n  - {<<: *a, name: time}"
    )
    features = load(write(text), {}, {}).settings.features
    assert [(f.name, f.min) for f in features] == [("distance", 0), ("time", 0)]


def test_a_secret_file_loses_one_newline(tmp_path):
    path = tmp_path / "secret"
    path.write_text("p\n\n")
    assert read_secret(str(path), "cache.password_file") == "p\n"


def test_a_missing_secret_file_names_key_and_file(tmp_path):
    with pytest.raises(ConfigError, match=r"^cache.password_file: cannot read the file .*none: no such file"):
        read_secret(str(tmp_path / "none"), "cache.password_file")
