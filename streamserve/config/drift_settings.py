"""The `drift` block of `streamserve.yaml`: what is sampled, watched, decided and told.

Absent, nothing is sampled. The block is read by the worker (`samples_per_s`, `samples_topic`, `pii`) and by the
sidecar (all the rest); one file configures both.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from streamserve.config.base import Settings, TopicName


def _ascending(values: list[float]) -> list[float]:
    if sorted(set(values)) != values:
        raise ValueError("give each window once, the shortest first")
    return values


class BudgetSettings(Settings):
    """How often the monitor may be wrong. The one number to choose."""

    false_alarms_per_week: float = Field(default=1.0, gt=0, le=1000)
    """Pages without a cause, per model version and week, over all features, windows, segments and detectors."""


class EffectSettings(Settings):
    """How large a change must be to matter, however certain it is."""

    wasserstein: float = Field(default=0.05, ge=0)
    """Distance between the distributions of a number, in standard deviations of the reference."""
    share: float = Field(default=0.005, ge=0, le=1)
    """Change of the share of missing values, of unseen values, or of one category."""
    js: float = Field(default=0.02, ge=0, le=1)
    """Jensen-Shannon distance (base 2), for a change of shape that moves no number far; needs `psi` too, see docs."""


class SegmentSettings(Settings):
    """Rows that are watched on their own: one segment per value of a feature."""

    feature: str
    """A string feature, or a number feature with few values."""
    values: list[str] | None = None
    """The values; default the most frequent ones of the reference."""
    top: int = Field(default=5, ge=1, le=50)
    """How many of the most frequent values, when `values` is not given."""
    protected: bool = False
    """Compare selection rate, true and false positive rate between the values (fairness)."""


class LabelSettings(Settings):
    """What came true: a topic of `{id, label, ts}`, joined with the samples by event id."""

    topic: TopicName | None = None
    """Default `<pipeline>.labels`."""
    task: Literal["binary", "multiclass", "regression"] = "binary"
    """What a label is: 0 or 1, the number or name of a class, or a number."""
    output: str | None = None
    """The model output that is compared with it; default the only one."""
    threshold: float = 0.5
    """From here on a probability counts as a prediction of 1."""
    classes: list[str] | None = None
    """Names of the classes by position in the output, for labels that are names."""
    wait_s: float = Field(default=86_400, gt=0)
    """A prediction waits so long for its label (and a label for its prediction)."""
    max_waiting: int = Field(default=1_000_000, ge=1000)
    """Most predictions that wait; the oldest leave first."""
    tolerance: float = Field(default=0.0, ge=0)
    """Regression: an error up to this is a correct prediction for the detectors."""


class WebhookSettings(Settings):
    """Who is told when an incident opens, worsens or clears."""

    url: str = Field(pattern=r"^https?://")
    """Where to POST."""
    format: Literal["alertmanager", "json"] = "json"
    """`alertmanager`: Alertmanager's own API (v2 alerts); `json`: the alert as it stands on the alerts topic."""
    token_file: str | None = None
    """File with a bearer token."""
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """For one attempt; an attempt that fails is repeated, with pauses, for `retry_s`."""
    retry_s: float = Field(default=3600.0, ge=0)
    """After so long an alert is given up, counted and logged."""


class RetrainSettings(Settings):
    """When a retraining request is published."""

    after_s: float | None = Field(default=None, gt=0)
    """An incident that lasts so long asks for it."""
    performance_below: float | None = None
    """The main metric under this asks for it: accuracy, for regression minus the mean absolute error."""
    every_s: float | None = Field(default=None, gt=0)
    """A schedule asks for it."""
    at_most_every_s: float = Field(default=86_400, gt=0)
    """One request per so long, whatever the reasons."""


class LabellingSettings(Settings):
    """Samples worth labelling by hand: the least confident and the most unlike the reference."""

    per_hour: int = Field(default=100, ge=1, le=100_000)
    """How many are marked."""
    diversity: float = Field(default=0.5, ge=0, le=1)
    """Share of them chosen for being unlike each other and the reference instead of for low confidence."""


class DriftSettings(Settings):
    """What is sampled, watched, decided and told."""

    samples_topic: TopicName | None = None
    """Topic of the sample chunks; default `<pipeline>.samples`."""
    reports_topic: TopicName | None = None
    """Topic of the reports; default `<pipeline>.drift.reports`."""
    alerts_topic: TopicName | None = None
    """Topic of alerts and retraining requests; default `<pipeline>.drift.alerts`."""
    samples_per_s: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["all"] = 2000
    """Rows sampled a second over the whole pipeline, about; `all` samples every row."""
    pii: dict[str, Literal["hash", "drop"]] = Field(default_factory=dict)
    """Feature (or `id`, `key`) -> what becomes of it before it is written: a keyed hash, or nothing."""
    pii_key_file: str | None = None
    """File with the key of the hashes; default the variable `STREAMSERVE_PII_KEY`."""
    pane_s: float = Field(default=10.0, gt=0)
    """The smallest slice of event time."""
    windows_s: Annotated[list[float], Field(min_length=1, max_length=6), AfterValidator(_ascending)] = Field(
        default_factory=lambda: [60.0, 600.0, 3600.0]
    )
    """Windows, each a multiple of `pane_s`, the shortest first."""
    lateness_s: float | None = Field(default=None, ge=0)
    """A pane is looked at so long after its end; default one pane. Later rows still correct it."""
    budget: BudgetSettings = BudgetSettings()
    effects: EffectSettings = EffectSettings()
    segments: list[SegmentSettings] = Field(default_factory=list, max_length=16)
    """Rows that are watched on their own."""
    learn_rows: int = Field(default=20_000, ge=1000)
    """Without a reference: so many sampled rows, over at least 30 panes, become a provisional one."""
    labels: LabelSettings | None = None
    """Absent: no labels are read."""
    webhooks: list[WebhookSettings] = Field(default_factory=list)
    """Who is told."""
    retrain: RetrainSettings = RetrainSettings()
    labelling: LabellingSettings | None = None
    """Absent: nothing is marked for labelling."""
    http_port: int = Field(default=8090, ge=0, le=65535)
    """Port of the dashboard and the sidecar's metrics, on `http.host`. 0 takes any free one."""
    stale_s: float = Field(default=120.0, gt=0)
    """No samples for so long by the clock on the wall is told as stale."""
