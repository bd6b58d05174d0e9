"""The report's settings: what differs between the runs, and what is the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from student_trainer.report_chart import table_begin
from student_trainer.report_values import MISSING

OWN = {"run_dir", "resume", "teacher.address"}
"""Settings that are about where a run went, not about what it is."""


def settings_html(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings of the runs by name, as their config.toml has them; "" without any."""
    flat = {run: dict(_flat(values, "")) for run, values in settings.items()}
    names = [
        n for n in dict.fromkeys(n for values in flat.values() for n in values) if n not in OWN
    ]
    said = {n: [_said(values.get(n)) for values in flat.values()] for n in names}
    differing = {n: values for n, values in said.items() if len(set(values)) > 1}
    shared = {n: values[0] for n, values in said.items() if n not in differing}
    table = _table(list(flat), differing) if differing else ""
    return table + (_list(shared, alone=len(flat) == 1) if shared else "")


def _flat(values: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _said(value: Any) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _table(runs: list[str], differing: Mapping[str, list[str]]) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in differing.items()
    )
    begin = table_begin(runs, "Settings in which the runs differ.", "Setting")
    return f"{begin}{rows}\n</tbody>\n</table></div>\n"


def _list(shared: Mapping[str, str], alone: bool) -> str:
    count = f"{len(shared)} settings" if len(shared) > 1 else "1 setting"
    whose = "All settings" if alone else f"{count} that all runs share"
    rows = "".join(f"<dt>{escape(n)}</dt><dd>{escape(value)}</dd>\n" for n, value in shared.items())
    return f'<details class="shared"><summary>{whose}</summary><dl class="settings">\n{rows}</dl></details>'
