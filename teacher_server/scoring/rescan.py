"""The data behind a folder of scores, read again: samples of chosen rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.sample import Sample
from teacher_server.scoring.source import chosen_rows, reopen_source


def scanned_samples(
    folder: Path | str, rows: Sequence[int], data: str | None = None
) -> Iterator[Sample]:
    """The samples of these rows, ascending; those that are no samples are left out.

    `data` is where the data are, if not where they were. Raises ValueError where they are not what was scored.
    """
    manifest = Manifest.read(Path(folder))
    mapping = ColumnMapping.from_json(manifest.mapping)
    source = reopen_source(manifest.data, data)
    images = ImageFolder(source.folder, manifest.allow_paths_outside)
    for number, values in chosen_rows(source, rows, mapping.columns):
        try:
            if not isinstance(values, BadRow):
                yield mapping.sample(number, values, images)
        except BadRow:
            continue
