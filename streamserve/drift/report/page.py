"""A report as one HTML file that stands alone: no script, no network, light and dark, readable in print.

Everything that comes from data is escaped; a Content-Security-Policy forbids all but the page's own style.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from math import isfinite

from streamserve.drift.report.figures import large, small
from streamserve.drift.report.values import ColumnReport, RangeReport

_KINDS = {
    "wasserstein": "Wasserstein distance in standard deviations of the reference",
    "share": "change of the share of missing, unseen or other values, or of one category",
    "js": "Jensen-Shannon distance, base 2",
}
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1a1c20;--dim:#5c626d;--line:#dcdfe4;--card:#f5f6f8;--ref:#aeb5c0;
--now:#0b57d0;--bad:#b3261e;--badbg:#fceeed;--good:#146c2e}
@media(prefers-color-scheme:dark){:root{--bg:#15171b;--fg:#e6e8ec;--dim:#a0a7b3;--line:#33373f;--card:#1d2026;
--ref:#565d6a;--now:#8ab4f8;--bad:#f2b8b5;--badbg:#3b1f1e;--good:#86d993}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:24px 20px 60px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}p{margin:6px 0}.dim{color:var(--dim)}
.verdict{border:1px solid var(--line);border-left:6px solid var(--good);background:var(--card);padding:12px 16px;
border-radius:6px;margin:16px 0;font-size:17px}.verdict.bad{border-left-color:var(--bad)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:12px 0}dt{color:var(--dim)}dd{margin:0;
overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{text-align:right;padding:5px 8px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:600;vertical-align:bottom}th:first-child,td:first-child,.left{text-align:left}
td:first-child{white-space:normal;overflow-wrap:anywhere;min-width:110px}tr.bad td{background:var(--badbg)}
.yes{color:var(--bad);font-weight:700}a{color:inherit}code,pre{font:13px/1.5 ui-monospace,Menlo,Consolas,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:10px 12px;border-radius:6px}
details{border-bottom:1px solid var(--line);padding:6px 0}summary{cursor:pointer;padding:4px 0}
.figure{width:100%;max-width:680px;height:auto;display:block;margin:8px 0}.thumb{display:block}
.ref{fill:var(--ref)}.now{fill:none;stroke:var(--now);stroke-width:1.8}.hit{fill:transparent}.base{stroke:var(--line)}
.axis{fill:var(--dim);font-size:11px}.end{text-anchor:end}
.key{display:inline-block;width:18px;height:10px;vertical-align:middle;background:var(--ref)}
.key.line{height:0;background:none;border-top:2px solid var(--now)}
@media print{details{break-inside:avoid}}
"""


def page(report: RangeReport, command: str, made_ms: int) -> str:
    """The HTML of a report.

    Args:
        report: what it says.
        command: how to make it again.
        made_ms: now.
    """
    title = f"Drift of {report.model} version {report.version}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p class=dim>Pipeline {escape(report.pipeline)}, "
        f"{_segment(report)}. Made {_time(made_ms)}.</p>\n"
        f"{_verdict(report)}\n{_facts(report)}\n{_table(report)}\n{_details(report)}\n{_rejects(report)}"
        f"<h2>Again</h2>\n<pre>{escape(command)}</pre>\n</body></html>\n"
    )


def sentence(report: RangeReport) -> str:
    """The verdict in words."""
    if not report.decided:
        return f"Too few rows to decide: {report.rows:,} of at least {report.least_rows:,}."
    if not report.drifted:
        return f"None of {len(report.columns)} columns drifted."
    names = ", ".join(column.name for column in report.drifted[:5])
    more = len(report.drifted) - 5
    return f"{len(report.drifted)} of {len(report.columns)} columns drifted: {names}" + (
        f" and {more} more." if more > 0 else "."
    )


def _segment(report: RangeReport) -> str:
    return f"rows with {escape(report.segment)}" if report.segment else "all rows"


def _verdict(report: RangeReport) -> str:
    mark = "⚠ " if report.drifted else "✓ " if report.decided else "… "
    return (
        f'<div class="verdict{" bad" if report.drifted else ""}" role="status">{mark}{escape(sentence(report))}</div>'
    )


def _facts(report: RangeReport) -> str:
    rows = f"{report.rows:,}" + (f", standing for {report.weight:,}" if report.weight != report.rows else "")
    provisional = ", provisional: learned from live traffic" if report.provisional else ""
    facts = {
        "Rows": rows,
        "Event time": f"{_time(report.first_ms)} to {_time(report.last_ms)}",
        "Reference": f"{report.reference}, {report.reference_rows:,} rows from {report.reference_source}{provisional}",
        "False findings": f"in at most {report.alpha:.2g} of such reports of a stream that does not drift",
    }
    if report.varies_unknown:
        facts["Caution"] = "the reference cannot tell how much the stream varies, so nothing is found to drift"
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    notes = "".join(f"<p class=dim>{escape(note)}</p>" for note in report.notes)
    return f"<dl>{items}</dl>{notes}"


def _table(report: RangeReport) -> str:
    head = (
        "<th scope=col>Column</th><th scope=col class=left>Shares</th><th scope=col>Drifted</th>"
        "<th scope=col>Effect</th><th scope=col>Floor</th><th scope=col class=left>of</th><th scope=col>p</th>"
        "<th scope=col>PSI</th><th scope=col>JS</th><th scope=col>KS</th><th scope=col>Missing</th>"
        "<th scope=col>Reference</th>"
    )
    body = "\n".join(_row(i, column) for i, column in enumerate(report.columns))
    return (
        '<h2>Columns</h2><p class=dim><span class=key></span> reference &nbsp; <span class="key line"></span> this'
        f" range; one step a cell of the reference.</p>\n<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _row(i: int, column: ColumnReport) -> str:
    drifted = "<span class=yes>⚠ yes</span>" if column.drifted else column.finding
    ks = number(column.ks) if column.kind == "numeric" else ""
    cells = (
        f'<td><a href="#c{i}">{escape(column.name)}</a></td><td class=left>{small(column.bars)}</td><td>{drifted}</td>'
        f"<td>{number(column.effect)}</td><td>{number(column.floor)}</td>"
        f'<td class=left><abbr title="{escape(_KINDS.get(column.effect_kind, ""), quote=True)}">'
        f"{escape(column.effect_kind)}</abbr></td><td>{probability(column.p)}</td><td>{number(column.psi)}</td>"
        f"<td>{number(column.js)}</td><td>{ks}</td><td>{column.missing:.2%}</td>"
        f"<td>{column.missing_reference:.2%}</td>"
    )
    return f"<tr{' class=bad' if column.drifted else ''}>{cells}</tr>"


def _details(report: RangeReport) -> str:
    return "<h2>Each column</h2>\n" + "\n".join(_detail(i, column) for i, column in enumerate(report.columns))


def _detail(i: int, column: ColumnReport) -> str:
    moved = ", ".join(_moved(column))
    mean = ""
    if column.mean is not None:
        before = "" if column.mean_reference is None else f" (reference {column.mean_reference:.5g})"
        mean = f"Mean {column.mean:.5g}{before}. "
    importance = "" if column.importance is None else f"Importance {column.importance:.1%}. "
    return (
        f'<details id="c{i}"{" open" if column.drifted else ""}><summary><b>{escape(column.name)}</b> '
        f"<span class=dim>{escape(column.kind)} {escape(column.origin)}"
        f"{', drifted' if column.drifted else ''}</span></summary>{large(column.bars, column.name)}"
        f"<p>{mean}{importance}Values in {column.values:,} rows.</p>"
        f"<p class=dim>Most changed: {escape(moved) or 'nothing'}.</p></details>"
    )


def _moved(column: ColumnReport) -> Iterator[str]:
    ranked = sorted(column.bars, key=lambda bar: -abs(bar.current - bar.reference))
    for bar in ranked[:4]:
        if bar.current != bar.reference:
            yield f"{bar.label} {bar.reference:.2%} → {bar.current:.2%}"


def _rejects(report: RangeReport) -> str:
    if not report.rejects:
        return ""
    rows = "".join(
        f"<tr><td>{escape(feature) or '-'}</td><td class=left>{escape(reason)}</td><td class=left>{escape(stage)}</td>"
        f"<td>{count:,}</td></tr>"
        for stage, reason, feature, count in report.rejects
    )
    return (
        "<h2>Rejected records</h2><div class=scroll><table><thead><tr><th>Feature</th><th class=left>Reason</th>"
        f"<th class=left>Stage</th><th>Records</th></tr></thead><tbody>{rows}</tbody></table></div>\n"
    )


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if isfinite(value) else "∞" if value > 0 else "-"


def probability(p: float) -> str:
    """A p-value: two digits, and no more noughts than one can count."""
    return f"{p:.2g}" if p >= 1e-300 else "<1e-300"


def _time(time_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return str(time_ms)
