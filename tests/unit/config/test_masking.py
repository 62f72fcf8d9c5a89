"""No secret survives masking; everything else does."""

from __future__ import annotations

import pytest

from streamserve.config.kafka_catalogue import SECRETS
from streamserve.config.masking import mask, mask_text, mask_url


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("prefix", ["", "consumer.", "producer."])
def test_every_secret_property_is_masked(name, prefix):
    assert mask({"kafka": {prefix + name: "hunter2"}}) == {"kafka": {prefix + name: "***"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://user:p@ss@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:pw@host", "redis://:***@host"),
        (
            "rediss+cluster://u:pw@host and http://host:80/x",
            "rediss+cluster://u:***@host and http://host:80/x",
        ),
        ("unix:///sock?db=1&password=pw", "unix:///sock?db=1&password=***"),
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
    ],
)
def test_the_password_in_a_url_is_masked(text, expected):
    assert mask_url(text) == expected


def test_pairs_in_a_message_are_masked():
    assert mask_text("bad sasl.password=hunter2, user=u") == "bad sasl.password=***, user=u"
    assert mask_text("kafka.sasl.password: must be text") == "kafka.sasl.password: must be text"
    assert mask_text('{"password": "hunter2"}') == '{"password": "***"}'


def test_names_of_files_and_plain_values_stay():
    tree = {
        "sasl.password_file": "/run/x",
        "sasl.username": "u",
        "topics": ["a"],
        "password": None,
        "ssl.ca.pem": "x",
    }
    assert mask(tree) == tree
