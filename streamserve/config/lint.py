"""What no single key shows: keys that contradict each other, and the files around them.

`lint` finds everything and returns values; `check` raises for what must not start. Reads the topics and the
model's folder beside the configuration, connects to nothing. Whether features fit the model's signature is
asked when the model is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Literal
from urllib.parse import urlsplit

from streamserve.config.lint_batching import batching_findings, batching_warnings
from streamserve.config.lint_drift import drift_findings, drift_topic_warnings, drift_warnings
from streamserve.config.lint_features import feature_findings
from streamserve.config.lint_outputs import output_findings
from streamserve.config.lint_rollout import rollout_findings, rollout_topic_warnings, rollout_warnings
from streamserve.config.loading import LoadedConfig
from streamserve.config.pinned import pinned_findings
from streamserve.config.settings import PipelineSettings
from streamserve.config.start_position import parse_start
from streamserve.config.topic_documents import TopicDocument, check_topics
from streamserve.config.wording import Finding
from streamserve.errors import ConfigError, Problem

Severity = Literal["error", "warning"]
CACHE_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A problem and how bad it is: an error must not start, a warning may be meant."""

    problem: Problem
    severity: Severity

    def __str__(self) -> str:
        return f"{self.severity}: {self.problem}"


def lint(loaded: LoadedConfig) -> list[Issue]:
    """Every issue of a configuration that loads, errors first, then in the order of the file."""
    settings = loaded.settings
    errors = [loaded.problem(*finding) for rule in _ERRORS for finding in rule(settings)]
    warnings = [loaded.problem(*finding) for rule in _WARNINGS for finding in rule(settings)]
    folder = loaded.path.absolute().parent / "topics"
    if folder.is_dir():
        topics, problems = check_topics(folder)
        errors += problems
        if not problems:
            found = _topics(settings, {topic.name: topic for topic in topics})
            warnings += [loaded.problem(*finding) for finding in found]
    issues = [Issue(problem=problem, severity="error") for problem in errors]
    issues += [Issue(problem=problem, severity="warning") for problem in warnings]
    return sorted(issues, key=lambda issue: (issue.severity, issue.problem.line or 1 << 30))


def check(loaded: LoadedConfig) -> list[Issue]:
    """The warnings of a configuration.

    Raises:
        ConfigError: it has errors; with all of them.
    """
    issues = lint(loaded)
    errors = [issue.problem for issue in issues if issue.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return issues


def _topic_names(settings: PipelineSettings) -> Iterator[Finding]:
    topics = settings.input.topics
    for topic, count in Counter(topics).items():
        if count > 1:
            yield Finding(("input", "topics"), f"{topic} is given {count} times")
    if settings.output.topic in topics:
        yield Finding(
            ("output", "topic"), "is also an input topic: predictions would be read as events", "name another"
        )
    if settings.dead_letter.topic in topics:
        message = "is also an input topic: a bad record would come round for ever"
        yield Finding(("dead_letter", "topic"), message, f"such as {topics[0]}.dlq")
    if settings.dead_letter.topic == settings.output.topic:
        yield Finding(("dead_letter", "topic"), "is also the topic of the predictions", "name another")


def _input(settings: PipelineSettings) -> Iterator[Finding]:
    try:
        parse_start(settings.input.start)
    except ValueError:
        yield Finding(
            ("input", "start"),
            "must be beginning, end, or a time",
            "such as 2026-01-31T00:00:00Z or epoch milliseconds",
        )


def _delivery(settings: PipelineSettings) -> Iterator[Finding]:
    delivery = settings.delivery
    if delivery.min_interval_ms(goal=settings.engine.slo_ms is not None) > delivery.commit_interval_ms:
        yield Finding(
            ("delivery", "commit_min_interval_ms"),
            f"must be at most commit_interval_ms ({delivery.commit_interval_ms:g})",
        )


def _cache(settings: PipelineSettings) -> Iterator[Finding]:
    cache = settings.cache
    if cache is None:
        return
    why = "input.key is set" if settings.input.key else "there are several input topics"
    if cache.order == "offset" and (settings.input.key or len(settings.input.topics) > 1):
        message = f"offset cannot order the predictions of a key: {why}, so a key may be in many partitions"
        yield Finding(("cache", "order"), message, "order: event_time")
    try:
        url = urlsplit(cache.url)
        scheme, password = url.scheme, url.password
    except ValueError:
        scheme, password = "", None
    if scheme not in CACHE_SCHEMES:
        yield Finding(("cache", "url"), f"must begin with {', '.join(f'{s}://' for s in CACHE_SCHEMES)}")
    if password and cache.password_file:
        yield Finding(("cache", "password_file"), "given beside a password in the url", "leave one out")


def _http(settings: PipelineSettings) -> Iterator[Finding]:
    last = settings.http.port + settings.workers - 1
    if settings.http.port and last > 65535:
        yield Finding(("http", "port"), f"{settings.workers} workers would listen up to port {last}")


def _timeouts(settings: PipelineSettings) -> Iterator[Finding]:
    session = _integer(settings, "session.timeout.ms", 45_000)
    transaction = _integer(settings, "transaction.timeout.ms", 30_000)
    poll = _integer(settings, "max.poll.interval.ms", 300_000)
    classic = settings.kafka.get("group.protocol", "classic") == "classic"
    if classic and poll < session:
        yield Finding(("kafka", "max.poll.interval.ms"), f"must be at least session.timeout.ms ({session})")
    if settings.delivery.guarantee == "exactly_once":
        for name in ("message.timeout.ms", "delivery.timeout.ms"):
            if _integer(settings, name, 0) > transaction:
                yield Finding(("kafka", name), f"must be at most transaction.timeout.ms ({transaction})")
        interval = settings.delivery.commit_interval_ms
        if interval > transaction / 2:
            yield Finding(
                ("delivery", "commit_interval_ms"),
                f"must be at most half of transaction.timeout.ms ({transaction}): {interval:g} ms leave a transaction"
                " too little time to commit before the brokers abort it",
                f"at most {transaction // 2}, or a longer kafka.transaction.timeout.ms",
            )


def _slow_stop(settings: PipelineSettings) -> Iterator[Finding]:
    poll = _integer(settings, "max.poll.interval.ms", 300_000)
    drain = settings.delivery.drain_timeout_s
    if drain * 1000 >= poll:
        message = f"a drain of {drain:g} s outlasts max.poll.interval.ms ({poll}): the group moves on first"
        yield Finding(("delivery", "drain_timeout_s"), message)
    session = _integer(settings, "session.timeout.ms", 45_000)
    transaction = _integer(settings, "transaction.timeout.ms", 30_000)
    if settings.delivery.guarantee == "exactly_once" and transaction >= session:
        message = f"should be below session.timeout.ms ({session}): a hung commit must end before the member"
        yield Finding(("kafka", "transaction.timeout.ms"), message)


def _secrets(settings: PipelineSettings) -> Iterator[Finding]:
    try:
        inline = bool(settings.cache and urlsplit(settings.cache.url).password)
    except ValueError:
        return
    if inline:
        yield Finding(("cache", "url"), "holds a password", "cache.password_file keeps it out of sight")


def _model(settings: PipelineSettings) -> Iterator[Finding]:
    folder = FilePath(settings.model.repository) / settings.model.name
    if not folder.is_dir():
        yield Finding(
            ("model", "name"),
            f"there is no model at {folder}",
            "mend model.name or model.repository, or put the model there: docs/models.md",
        )


def _topics(settings: PipelineSettings, topics: dict[str, TopicDocument]) -> Iterator[Finding]:
    if not topics:
        return
    named = [(("input", "topics"), topic) for topic in settings.input.topics]
    named += [
        (("output", "topic"), settings.output.topic),
        (("dead_letter", "topic"), settings.dead_letter.topic),
    ]
    for path, name in named:
        if name not in topics or topics[name].absent:
            yield Finding(path, f"no document in topics/ describes {name}")
    yield from drift_topic_warnings(settings, topics)
    yield from rollout_topic_warnings(settings, topics)
    output = topics.get(settings.output.topic)
    for name in settings.input.topics:
        source = topics.get(name)
        if source and output and source.partitions != output.partitions:
            message = (
                f"{output.name} has {_count(output)}, its input {name} {_count(source)}: a prediction goes "
                "to the partition number of its input, modulo their count"
            )
            yield Finding(("output", "topic"), message, "give both the same count in topics/")


def _count(topic: TopicDocument) -> str:
    return f"{topic.partitions} partitions" if topic.partitions else "the broker's default"


def _integer(settings: PipelineSettings, name: str, default: int) -> int:
    for key in (f"consumer.{name}", f"producer.{name}", name):
        if key in settings.kafka:
            return int(settings.kafka[key])
    return default


Rule = Callable[[PipelineSettings], Iterator[Finding]]
_ERRORS: tuple[Rule, ...] = (
    _topic_names,
    _input,
    feature_findings,
    output_findings,
    _delivery,
    _timeouts,
    _cache,
    drift_findings,
    rollout_findings,
    pinned_findings,
    batching_findings,
    _http,
)
_WARNINGS: tuple[Rule, ...] = (_slow_stop, _secrets, _model, drift_warnings, rollout_warnings, batching_warnings)
