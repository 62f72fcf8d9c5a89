"""`streamserve drift`: the reference that drift is measured against, reports on any range, other tools' figures."""

from __future__ import annotations

import typer

from streamserve.cli.drift_baseline import baseline
from streamserve.cli.drift_report import report
from streamserve.cli.drift_verify import verify

app = typer.Typer()
app.command("baseline")(baseline)
app.command("report")(report)
app.command("verify")(verify)
