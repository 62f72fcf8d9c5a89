"""ADWIN and HDDM-A against river, against published runs, and against their budget of false alarms."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from river import drift

from streamserve.drift.adwin import ADWIN_CONFIDENCE, Adwin, AdwinSettings
from streamserve.drift.detectors import LEAST_CONFIDENCE, Detector, confidence_for, detector_from_document
from streamserve.drift.hddm import HDDM_CONFIDENCE, HddmA, HddmSettings


def piecewise(seed: int) -> np.ndarray:
    """A stream of up to four stretches: errors, normal numbers or small fractions."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(rng.integers(1, 5)):
        n, kind = int(rng.integers(50, 1500)), rng.integers(3)
        if kind == 0:
            parts.append((rng.random(n) < rng.random()).astype(float))
        elif kind == 1:
            parts.append(rng.normal(rng.normal(), rng.random() + 0.1, n))
        else:
            parts.append(rng.random(n) * rng.random())
    return np.concatenate(parts)


def river_alarms(make, stream: np.ndarray) -> list[int]:
    detector, found = make(), []
    for index, value in enumerate(stream.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
            detector = make()
    return found


def alarms(detector: Adwin | HddmA, stream: np.ndarray) -> list[int]:
    found = []
    for index, value in enumerate(stream.tolist()):
        if detector.update(value):
            found.append(index)
            detector.reset()
    return found


def errors(seed: int, *parts: tuple[int, float]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random(n) < rate for n, rate in parts]).astype(float)


@pytest.mark.parametrize("seed", range(60))
def test_adwin_alarms_where_river_does(seed):
    rng = np.random.default_rng(1000 + seed)
    options = {
        "delta": float(rng.choice([0.002, 0.05, 0.3])),
        "clock": int(rng.choice([1, 8, 32])),
        "max_buckets": int(rng.choice([3, 5, 8])),
        "min_window_length": int(rng.choice([1, 5, 10])),
        "grace_period": int(rng.choice([10, 50])),
    }
    stream = piecewise(seed)
    assert alarms(Adwin(AdwinSettings(**options)), stream) == river_alarms(lambda: drift.ADWIN(**options), stream)


@pytest.mark.parametrize("seed", range(60))
def test_hddm_a_alarms_where_river_does(seed):
    rng = np.random.default_rng(2000 + seed)
    sure, two_sided = float(rng.choice([0.001, 0.01, 0.1])), bool(rng.integers(2))
    stream = piecewise(seed)
    stream = (stream - stream.min()) / (np.ptp(stream) + 1e-9)
    settings = HddmSettings(drift=sure, warning=5 * sure, two_sided=two_sided)
    expected = river_alarms(lambda: drift.binary.HDDMA(sure, 5 * sure, two_sided), stream)
    assert alarms(HddmA(settings), stream) == expected
    assert HddmA(settings).extend(stream) == expected


def test_the_published_stream_of_capymoa():
    """notebooks/drift_detection.ipynb of CapyMOA: MOA's ADWIN first at 1024 and twice, HDDM_A first at 1004."""
    rng = np.random.default_rng(42)
    stream = rng.integers(0, 2, 2000).astype(float)
    stream[1000:] = rng.integers(6, 12, 1000)
    assert [index + 1 for index in Adwin(AdwinSettings(clock=32)).extend(stream)] == [1024, 1056]
    assert HddmA().extend(stream)[0] + 1 == 1004


def test_the_published_streams_of_river():
    rng = random.Random(12345)
    stream = rng.choices([0, 1], k=1000) + rng.choices(range(4, 8), k=1000)
    assert Adwin(AdwinSettings(clock=32)).extend(np.array(stream, dtype=float))[0] == 1023
    rng = random.Random(42)
    stream = rng.choices([0, 1], k=1000) + rng.choices([0, 1], k=1000, weights=[0.3, 0.7])
    detector = HddmA()
    warnings = [i for i, value in enumerate(stream[:1206]) if not detector.update(value) and detector.warning]
    assert warnings[0] == 451
    assert detector.update(stream[1206])
    assert not detector.warning


@pytest.mark.parametrize("make", [Adwin, HddmA])
def test_no_false_alarm_in_ten_thousand_and_a_delay_of_at_most_116_labels(make):
    """Means over 30 streams at the default confidence; river measured so: ADWIN 116, HDDM_A 116."""
    delays = []
    for seed in range(30):
        assert make().extend(errors(seed, (10_000, 0.1))) == []
        found = make().extend(errors(seed, (2000, 0.1), (2000, 0.3)))
        assert found[0] >= 2000
        delays.append(found[0] - 2000)
    assert np.mean(delays) <= 116


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_a_million_labels_under_a_budget_of_one_alarm_give_none(rate):
    stream = errors(7, (1_000_000, rate))
    assert HddmA(HddmSettings(drift=confidence_for(1, 1e6, detector="hddm_a"))).extend(stream) == []
    adwin = Adwin(AdwinSettings(delta=confidence_for(1, 1e6, detector="adwin")))
    assert adwin.extend(stream[:250_000]) == []


def test_a_budget_becomes_a_confidence():
    assert confidence_for(1, 1_000_000, detector="hddm_a") == 1e-6
    assert confidence_for(1, 1_000_000, detector="adwin", clock=32) == pytest.approx(32e-6)
    assert confidence_for(0.5, 1_000_000, detector="hddm_a") == 5e-7
    assert confidence_for(1, 1e15, detector="hddm_a") == LEAST_CONFIDENCE
    assert confidence_for(1000, 10, detector="hddm_a") == HDDM_CONFIDENCE
    assert confidence_for(1, 0, detector="adwin") == ADWIN_CONFIDENCE
    for budget, labels, clock in ((0, 1, 1), (float("nan"), 1, 1), (1, -1, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="a budget of"):
            confidence_for(budget, labels, detector="adwin", clock=clock)


def test_hddm_a_tells_falling_errors_only_when_asked():
    stream = errors(3, (2000, 0.3), (2000, 0.05))
    assert HddmA().extend(stream) == []
    assert HddmA(HddmSettings(two_sided=True)).extend(stream)[0] >= 2000


def test_adwins_window_is_what_is_left_after_the_change():
    adwin = Adwin()
    adwin.extend(errors(1, (3000, 0.1), (3000, 0.4)))
    assert 2900 <= adwin.width <= 3200
    assert adwin.mean == pytest.approx(0.4, abs=0.03)
    assert adwin.variance == pytest.approx(adwin.mean * (1 - adwin.mean), abs=0.001)


def test_an_empty_detector_has_a_mean_of_zero():
    assert (Adwin().mean, Adwin().variance, HddmA().mean) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("make", [Adwin, HddmA])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_changes_nothing(make, bad):
    detector: Detector = make()
    detector.extend(np.array([0.0, 1.0]))
    before = detector.to_document()
    with pytest.raises(ValueError, match="finite"):
        detector.update(bad)
    with pytest.raises(ValueError, match="finite"):
        detector.extend(np.array([0.0, bad]))
    assert detector.to_document() == before


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "ddm"},
        {"kind": "adwin"},
        {"kind": "hddm_a", "settings": {"drift": 2.0}},
        {**Adwin().to_document(), "totals": [[1.0]]},
        {**Adwin().to_document(), "settings": {"delta": 0.0}},
        {**Adwin().to_document(), "settings": {"clock": 0}},
    ],
)
def test_a_document_of_something_else_is_refused(document):
    with pytest.raises(ValueError, match=r"."):
        detector_from_document(document)


def test_a_document_is_json():
    for detector in (Adwin(), HddmA()):
        detector.extend(errors(0, (5000, 0.2)))
        again = detector_from_document(json.loads(json.dumps(detector.to_document())))
        assert again.to_document() == detector.to_document()
