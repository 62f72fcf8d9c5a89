"""Variables of our prefix that are no configuration are left alone."""

import re
from pathlib import Path

from streamserve import config, failpoints
from streamserve.config.overrides import NOT_CONFIGURATION, from_environment
from streamserve.worker import child


def test_what_a_supervisor_tells_the_next_life_is_no_configuration():
    told = child.Exit(signal=9).environment() | child.Exit(code=1).environment() | {failpoints.VARIABLE: ""}
    assert from_environment(told) == ([], [])


def test_every_variable_that_the_sources_name_is_either_configuration_or_listed():
    sources = Path(config.__file__).parents[1].rglob("*.py")
    named = {name for path in sources for name in re.findall(r'"(STREAMSERVE_[A-Z_]+)"', path.read_text())}
    assert {name for name in named if name != "STREAMSERVE_" and "__" not in name} <= NOT_CONFIGURATION
