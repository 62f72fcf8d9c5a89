"""`streamserve model`: the versions of a model. One module a verb, registered here in the order of `--help`."""

from __future__ import annotations

import typer

from streamserve.cli.model_bench import bench
from streamserve.cli.model_check import check
from streamserve.cli.model_history import add as add_history
from streamserve.cli.model_inspect import inspect
from streamserve.cli.model_list import list_versions
from streamserve.cli.model_optimize import optimize
from streamserve.cli.model_push import push, set_alias
from streamserve.cli.model_report import report
from streamserve.cli.model_rollout import add as add_rollout

app = typer.Typer(name="model", help="Keep, try and roll out the versions of a model.", no_args_is_help=True)
app.command("list")(list_versions)
app.command()(inspect)
app.command()(push)
app.command("alias")(set_alias)
app.command()(check)
app.command()(bench)
app.command()(optimize)
app.command()(report)
add_rollout(app)
add_history(app)


@app.callback()
def model() -> None:
    """Keep, try and roll out the versions of a model."""
