"""What `student-trainer geometry` found, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANGLES = {"lang_vis": "lang-vis", "std_vis": "std-vis", "std_lang": "std-lang"}
NORMS = {"lang": "|lang|", "vis": "|vis|", "standard": "|std|"}


def geometry_table(found: Mapping[str, Any]) -> str:
    """`found` is what geometry.json holds."""
    header = ["decile", "tokens", "VDS (nats)", *ANGLES.values(), *NORMS.values()]
    rows = [
        _row(
            str(d),
            {key: found[f"{key}_by_decile" if key == "tokens" else key][d] for key in KEYS},
            {name: found["angles"][name][d] for name in ANGLES},
            {name: found["norms"][name][d] for name in NORMS},
        )
        for d in range(len(found["tokens_by_decile"]))
    ]
    for title, key in (("top 30 %", "top_30"), ("low 70 %", "low_70")):
        rows.append(_row(title, found[key], found[key]["angles"], found[key]["norms"]))
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    about = (
        f"{found['checkpoint']}, step {found['step']}: {found['responses']} responses, {found['tokens']} tokens; "
        "angles in degrees"
    )
    return "\n".join([about, *lines])


KEYS = ("tokens", "vds_low", "vds_high")


def _row(
    title: str,
    about: Mapping[str, Any],
    angles: Mapping[str, float],
    norms: Mapping[str, float],
) -> list[str]:
    return [
        title,
        f"{about['tokens']:,}",
        f"{about['vds_low']:.3g} to {about['vds_high']:.3g}",
        *(f"{angles[name]:.1f}" for name in ANGLES),
        *(f"{norms[name]:.3g}" for name in NORMS),
    ]
