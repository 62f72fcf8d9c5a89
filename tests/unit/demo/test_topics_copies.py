"""The flights topics stand in `topics/` for clusters and in the package for the demo: the same bytes."""

from pathlib import Path

import pytest

from streamserve.demo.flights import TOPICS

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = sorted(path.relative_to(TOPICS) for path in TOPICS.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_both_copies_are_identical(file):
    assert (REPOSITORY / "topics" / file).read_bytes() == (TOPICS / file).read_bytes()


def test_every_flights_document_of_the_repository_is_in_the_package():
    ours = {path.relative_to(REPOSITORY / "topics") for path in (REPOSITORY / "topics").rglob("flights.*")}
    assert ours == set(FILES)
    assert len(ours) == 16
