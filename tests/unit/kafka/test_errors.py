"""The map from Kafka's errors to the error tree is complete, and its order is the one that delivery rests on."""

from __future__ import annotations

import itertools

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamserve.errors import BrokerUnavailable, Fenced, SinkError, SourceError
from streamserve.kafka import errors
from streamserve.kafka.errors import first_error, sink_error, source_error

CODES = sorted(
    code for name in dir(KafkaError) if name.isupper() and isinstance(code := getattr(KafkaError, name), int)
)
FLAGS = [
    dict(zip(("fatal", "retriable", "txn_requires_abort"), flags, strict=True))
    for flags in itertools.product([False, True], repeat=3)
]


def test_the_client_has_the_codes_that_the_map_is_tested_with():
    assert len(CODES) > 150
    assert KafkaError._FENCED in CODES
    assert KafkaError.ILLEGAL_GENERATION in CODES


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_error_of_a_producer_has_a_place_in_the_tree(flags):
    for code in CODES:
        error = KafkaError(code, "why", **flags)
        mapped = sink_error(KafkaException(error), "committing")
        assert isinstance(mapped, SinkError), error
        assert "committing" in str(mapped)
        assert error.name() in str(mapped)
        if code in errors.TAKEN_OVER:
            assert isinstance(mapped, Fenced)
        else:
            assert not isinstance(mapped, Fenced)
        expected = (
            code not in errors.TAKEN_OVER and not flags["fatal"] and (flags["txn_requires_abort"] or flags["retriable"])
        )
        assert mapped.retryable is expected, error


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_error_of_a_consumer_has_a_place_in_the_tree(flags):
    for code in CODES:
        error = KafkaError(code, "why", **flags)
        mapped = source_error(error, "reading")
        if code in errors.UNREACHABLE:
            assert isinstance(mapped, BrokerUnavailable), error
            assert mapped.retryable
        else:
            assert isinstance(mapped, SourceError), error
            assert mapped.retryable is (code in errors.MOVED_ON or flags["retriable"])
        assert "reading" in str(mapped)


def test_fatal_goes_before_abortable_and_abortable_before_retriable():
    fatal = KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "", fatal=True, retriable=True, txn_requires_abort=True)
    assert not sink_error(KafkaException(fatal), "x").retryable
    neither = KafkaError(KafkaError.INVALID_TXN_STATE, "")
    assert not sink_error(KafkaException(neither), "x").retryable


def test_a_dead_generation_is_retryable_for_the_producer_by_its_flag_and_for_the_consumer_by_its_code():
    aborting = KafkaError(KafkaError.ILLEGAL_GENERATION, "", txn_requires_abort=True)
    assert sink_error(KafkaException(aborting), "x").retryable
    assert source_error(KafkaError(KafkaError.ILLEGAL_GENERATION, ""), "x").retryable


def test_groups_of_codes_do_not_overlap():
    groups = [errors.UNREACHABLE, errors.FORBIDDEN, errors.TAKEN_OVER, errors.MOVED_ON, errors.UNREADABLE]
    for one, other in itertools.combinations(groups, 2):
        assert not one & other


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "access control lists"),
        (KafkaError._TRANSPORT, "bootstrap.servers"),
        (KafkaError._BAD_COMPRESSION, "--reset-offsets"),
    ],
)
def test_an_error_that_a_person_can_mend_says_how(code, remedy):
    assert remedy in str(source_error(KafkaError(code, ""), "x"))


def test_an_exception_without_a_kafka_error_inside_still_has_a_message():
    assert first_error(KafkaException("odd")).str() == "odd"
    assert isinstance(sink_error(KafkaException("odd"), "x"), SinkError)
