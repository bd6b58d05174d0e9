"""Settings of `teacher-server score` and `teacher-server select`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field, model_validator

from protos.prompt import TextContext
from teacher_server.credential_settings import CredentialSettings
from teacher_server.settings import Settings

By = Literal["mean", "max", "p90", "share", "gain"]


class ScoreConfig(CredentialSettings):
    """What is scored, by whom, and where to."""

    data: Annotated[str, tyro.conf.Positional]
    """A .jsonl or .parquet file; or, through `datasets`, a folder or the id of a data set on the Hub."""
    teacher: str = "127.0.0.1:50051"
    """HOST:PORT of the teacher; of its replicas, with commas between; or dns:///name:port for all that a name has."""
    out: Path | None = None
    """Folder for the scores, new or empty; with --resume the one of the run that goes on."""
    image_column: str = "image"
    """Encoded bytes, a path relative to the data, a data URI, a `datasets.Image` struct, or a list of these."""
    question_column: str = "question"
    """Text of the user's turn, which shows the images first."""
    response_column: str | None = None
    """Text to score; default "response", or where there is a messages column the turns of the assistant in it."""
    messages_column: str | None = None
    """Instead of the question: a list of {role, content} or {from, value}, or that as JSON."""
    id_column: str | None = None
    """Name of the row in the output; default its number."""
    image_marker: str | None = None
    """Text inside question or messages that stands for an image, such as <image>; where there is none the images come
    first. Default: no text does."""
    system_prompt: str | None = None
    """System turn for rows that have none of their own."""
    after_images: str = "\n"
    """Text between the images and the question, where the images are put first; the trainer's `data.after_images`."""
    text_context: TextContext = "drop"
    """What the teacher sees instead of the images: nothing, or grey pictures of their sizes."""
    allow_paths_outside: bool = False
    """Let paths in rows lead out of the data's folder, to any file that this process can read."""
    split: str = "train"
    """Of a data set read through `datasets`."""
    subset: str | None = None
    """Its configuration, where it has several."""
    revision: str | None = None
    """Its branch, tag or commit."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many rows, from the first."""
    resume: bool = False
    """Go on with what is in --out."""
    retry_failed: bool = False
    """With --resume: ask again for the rows that failed."""
    dry_run: bool = False
    """Show the mapping and the first rows as the teacher would see them, and score nothing."""
    shard_rows: int = Field(default=2000, ge=1)
    """Rows in a file of the output; one with very long responses holds fewer."""
    max_inflight_tokens: int = Field(default=65_536, ge=1)
    """Response tokens asked for and not answered yet, of each replica; a text counts as its bytes."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Seconds that a row may wait for its scores."""
    connect_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for the teacher at the start."""
    outage_s: float = Field(default=600.0, ge=0)
    """Seconds to wait for a teacher that went away; then the run ends with status 75, and --resume goes on later."""

    @model_validator(mode="after")
    def _somewhere_to_go(self) -> ScoreConfig:
        if self.out is None and not self.dry_run:
            raise ValueError("say where the scores go: --out DIR, or look first: --dry-run")
        if self.retry_failed and not self.resume:
            raise ValueError("--retry-failed goes on with rows of an earlier run; say --resume too")
        return self


class SelectConfig(Settings):
    """Which rows of scored data are kept."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the scores."""
    out: Path
    """Parquet file for the rows, as they are in the data, with their images in it."""
    by: By = "mean"
    """Summary of the row's VDS: mean, max, 90th percentile, share of tokens above the data set's 0.7 quantile; or the
    sequence gain."""
    keep_top: float | None = Field(default=None, gt=0, le=1)
    """Share of the scored rows, those with the highest."""
    keep_bottom: float | None = Field(default=None, gt=0, le=1)
    """Share of the scored rows, those with the lowest."""
    min: float | None = None
    """Only rows with at least this."""
    max: float | None = None
    """Only rows with at most this."""
    data: str | None = None
    """The data, where they are not any more where they were scored."""

    @model_validator(mode="after")
    def _something_to_choose_by(self) -> SelectConfig:
        if self.keep_top is not None and self.keep_bottom is not None:
            raise ValueError("keep_top and keep_bottom exclude each other; give one")
        if all(v is None for v in (self.keep_top, self.keep_bottom, self.min, self.max)):
            raise ValueError("say what to keep: --keep-top, --keep-bottom, --min or --max")
        return self
