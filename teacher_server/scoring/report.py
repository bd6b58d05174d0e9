"""`teacher-server report DIR`: what a data set's scores say, as one HTML file that opens from disk.

Memory does not grow with the data: shards are read in small batches, once for the whole and once for the samples shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field

from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.report_document import document
from teacher_server.scoring.report_pictures import add_pictures
from teacher_server.scoring.report_ranking import MEASURES
from teacher_server.scoring.report_samples import Sample, read_samples
from teacher_server.scoring.report_survey import Survey, take_survey
from teacher_server.scoring.report_tokens import as_rows
from teacher_server.scoring.shard import shards_in
from teacher_server.settings import Settings
from teacher_server.whole_file import whole_file


class ReportConfig(Settings):
    """What to show, and where."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `teacher-server score` wrote."""
    data: str | None = None
    """Where the data that were scored are now; without it, where they were. For pictures and questions."""
    samples: int = Field(default=200, ge=1, le=2000)
    """Shown in the page: the highest and lowest by each measure, and others evenly between."""
    min_count: int = Field(default=10, ge=1)
    """How often a token must occur to be in the table of tokens."""
    out: Path | None = None
    """The file; without it, report.html in the folder."""


def write_report(config: ReportConfig) -> Path:
    """Write the page, whole or not at all; returns where it is.

    Raises ValueError where the folder holds no scores, or `data` is not what was scored.
    """
    manifest = Manifest.read(config.folder)
    shards = shards_in(config.folder)
    if not shards:
        raise ValueError(f"{config.folder} holds no scored row yet; let teacher-server score go on")
    survey = take_survey(shards, config.samples)
    samples = read_samples(shards, survey.ranking.picks())
    notice = add_pictures(config.folder, samples, config.data) if samples else None
    facts = page_facts(manifest, survey, samples, config.min_count) | {"notice": notice}
    out = config.out or config.folder / "report.html"
    with whole_file(out) as file:
        file.write(document(f"Visual dependency of {data_name(manifest)}", facts).encode())
    return out


def data_name(manifest: Manifest) -> str:
    """Short, for the title: a file's name, or the id of a data set."""
    path = str(manifest.data.get("path", "the data"))
    return path if manifest.data.get("kind") == "hub" else Path(path).name


def page_facts(
    manifest: Manifest, survey: Survey, samples: list[Sample], min_count: int
) -> dict[str, Any]:
    """What the page's scripts draw; see report_page/report.js. Nothing in it is NaN or infinite."""
    spans = {name: survey.ranking.span(name) for name in MEASURES}
    facts = {
        "finished": manifest.finished,
        "counts": {
            "rows": survey.rows,
            "failed": sum(survey.errors.counts.values()),
            "tokens": survey.histogram.tokens,
        },
        "mean": survey.histogram.mean,
        "q70": ((manifest.vds or {}).get("quantiles") or {}).get("0.7"),
        "bars": [asdict(bar) for bar in survey.histogram.bars()],
        "deciles": [asdict(decile) for decile in survey.histogram.deciles()],
        "vocabulary": {
            "min_count": min_count,
            "distinct": survey.tally.distinct,
            "most": as_rows(survey.tally.most(min_count)),
            "least": as_rows(survey.tally.least(min_count)),
        },
        "spans": {name: span for name, span in spans.items() if span},
        "samples": samples,
        "errors": [
            {"code": code, "count": count, "first": [asdict(r) for r in survey.errors.first[code]]}
            for code, count in sorted(survey.errors.counts.items(), key=lambda e: (-e[1], e[0]))
        ],
        "settings": _settings(manifest),
    }
    return _finite(facts)


def _settings(manifest: Manifest) -> list[tuple[str, str]]:
    teacher, used = manifest.teacher, manifest.mapping
    columns = ", ".join(f"{name}: {value}" for name, value in used.items() if value is not None)
    found = {
        "Data": " · ".join(str(v) for v in manifest.data.values() if v is not None),
        "Columns": columns,
        "Without the picture": {"drop": "left out", "grey": "a grey picture in its place"}.get(
            manifest.text_context, manifest.text_context
        ),
        "Teacher": " · ".join(
            str(teacher[n]) for n in ("model_id", "engine", "dtype") if n in teacher
        ),
        "Fingerprint": str(teacher.get("model_fingerprint", "")),
        "Scored": f"{manifest.started} to {manifest.ended or 'unfinished'}",
        "Versions": " · ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    return [(name, value) for name, value in found.items() if value]


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
    return value
