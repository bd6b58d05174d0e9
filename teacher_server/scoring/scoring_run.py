"""A data set scored by a served teacher, into a folder: the Python call behind `teacher-server score`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from protos.client import TeacherClient
from protos.errors import Unimplemented
from protos.teacher_info import TeacherInfo
from teacher_server.scoring.background import in_thread, on_shared_loop
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.config import ScoreConfig
from teacher_server.scoring.dataset_scorer import DatasetScorer
from teacher_server.scoring.manifest import Manifest, now, teacher_json
from teacher_server.scoring.progress import Progress, open_progress
from teacher_server.scoring.score_folder import ScoreFolder
from teacher_server.scoring.source import Source, open_source

NEEDED = ("chat", "vds_only", "token_texts")
"""Capabilities."""


def score_dataset(data: str | Path, *, teacher: str, out: str | Path, **settings: Any) -> Manifest:
    """Score every row of `data` into the folder `out`; `settings` are the flags of `teacher-server score`.

    Returns what stands in manifest.json, with `counts` of scored and failed rows. Raises ValueError where settings or
    data are wrong, and a TeacherError where the teacher can't be used or stays away: what was scored is kept, and
    `resume=True` goes on. May be called where an event loop runs, such as in a notebook.
    """
    return run(ScoreConfig(data=str(data), teacher=teacher, out=Path(out), **settings))


def run(config: ScoreConfig) -> Manifest:
    """See `score_dataset`."""
    source = open_source(config.data, config.split, config.revision, config.subset)
    mapping = mapping_of(config)
    mapping.check(source.columns, config.data)
    assert config.out is not None, "the settings see to it"
    if (folder := Path(config.data)).is_dir() and config.out.resolve().is_relative_to(
        folder.resolve()
    ):
        raise ValueError(f"--out {config.out} lies inside the data {folder}; give another place")
    with open_progress() as progress:
        return on_shared_loop(_run(config, source, mapping, progress))


def mapping_of(config: ScoreConfig) -> ColumnMapping:
    """The settings that say which column is what."""
    return ColumnMapping(
        config.image_column,
        config.question_column,
        config.response_column,
        config.messages_column,
        config.id_column,
        config.image_marker,
        config.system_prompt,
        config.after_images,
    )


def client_of(config: ScoreConfig) -> TeacherClient:
    """Not connected yet. Raises ValueError or OSError where a file of the credentials is wrong."""
    return TeacherClient(
        config.teacher.split(","),
        max_inflight_tokens=config.max_inflight_tokens,
        deadline_s=config.deadline_s,
        connect_timeout_s=config.connect_timeout_s,
        outage_s=config.outage_s,
        credentials=config.credentials(),
    )


async def _run(
    config: ScoreConfig, source: Source, mapping: ColumnMapping, progress: Progress
) -> Manifest:
    out = config.out
    assert out is not None, "the settings see to it"
    async with client_of(config) as client:
        check_abilities(client.info, config)
        manifest = Manifest(
            data=source.identity,
            mapping=mapping.to_json(),
            text_context=config.text_context,
            teacher=teacher_json(client.info),
            settings={
                "limit": config.limit,
                "shard_rows": config.shard_rows,
                "allow_paths_outside": config.allow_paths_outside,
            },
            started=now(),
        )
        opened = functools.partial(
            ScoreFolder, out, manifest, resume=config.resume, retry_failed=config.retry_failed
        )
        with await in_thread(opened) as folder:
            await DatasetScorer(client, source, mapping, folder, config, progress).run()
            await in_thread(folder.finish)
            return folder.manifest


def check_abilities(info: TeacherInfo, config: ScoreConfig) -> None:
    """Raises Unimplemented where the teacher can't do what is asked of it."""
    needed = (*NEEDED, "grey_context") if config.text_context == "grey" else NEEDED
    if missing := [word for word in needed if word not in info.capabilities]:
        raise Unimplemented(
            f"the teacher {info.teacher_id!r} can't do {', '.join(missing)}: it is another version, or an engine "
            "without a chat template; update it"
        )
