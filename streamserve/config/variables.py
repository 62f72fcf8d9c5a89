"""Variables in values: `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, and `$$` for one `$`.

As in a shell, `:-` and `:?` also apply to a variable that is set but empty. A value with a newline is
refused: pasted into YAML by another tool it could add keys. Values are never looked into again, so a
variable cannot name another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from streamserve.config.document import Expand, VariableError

_TOKEN = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::([-?])(.*))?", re.DOTALL)


def expander(environ: Mapping[str, str]) -> Expand:
    """A function that replaces the variables in a value by those of `environ`. It raises: VariableError."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        variable = _VARIABLE.fullmatch(match[1]) if match[1] is not None else None
        if variable is None:
            raise VariableError(
                "not a variable", "write ${VAR}, ${VAR:-default} or ${VAR:?message}; a plain $ before { is $$"
            )
        return _value(environ, variable[1], variable[2], variable[3] or "")

    return lambda text: _TOKEN.sub(replace, text)


def _value(environ: Mapping[str, str], name: str, operator: str | None, operand: str) -> str:
    value = environ.get(name)
    if value is None and operator is None:
        raise VariableError(f"the variable {name} is not set", f"set it, or give a default: ${{{name}:-value}}")
    if not value:
        if operator == "?":
            raise VariableError(f"the variable {name} is needed: {operand or 'it is not set'}")
        if operator == "-":
            return operand
    if value and ("\n" in value or "\r" in value):
        raise VariableError(f"the value of the variable {name} holds a newline", "use a *_file key for it")
    return value or ""
