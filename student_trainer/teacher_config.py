"""Settings of the teacher's client."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from student_trainer.settings import Settings


class TeacherConfig(Settings):
    """Who scores the answers."""

    address: str = "127.0.0.1:50051"
    """host:port of the teacher; of its replicas, with commas between; or dns:///name:port for all that a name has."""
    named: dict[str, str] = Field(default_factory=dict)
    """Several teachers instead, by name, each with addresses as above; `data.teacher_column` says whose a row is."""
    k: int = Field(default=32, ge=1)
    """Teacher's top-k in each context."""
    dtype: Literal["f32", "f16"] = "f32"
    """Wire type of the support's log-probabilities."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Seconds that a response may wait for its scores."""
    connect_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait for the teacher when training starts."""
    outage_s: float = Field(default=600.0, ge=0)
    """Seconds to wait for a teacher that went away; then the run leaves a checkpoint and ends with status 75."""
    hedge_after_s: float | None = Field(default=None, gt=0)
    """Ask a second replica for scores that take longer; the first answer counts. None: never."""
    cache_dir: Path | None = None
    """Folder to keep scores in, so that a step repeated after a resume is not scored again. None: none are kept.
    Each of several ranks has a folder of its own in it, `rank-N`."""
    token_file: Path | None = None
    """File that holds the token alone; without it VGS_TOKEN of the environment, if set."""
    tls: bool = False
    """Speak TLS, and trust the system's authorities. Naming a file below says so too."""
    ca_file: Path | None = None
    """PEM of the authorities to trust instead."""
    certificate_file: Path | None = None
    """PEM of the trainer's certificate, for mutual TLS."""
    key_file: Path | None = None
    """PEM of its key."""
    server_name: str = ""
    """Name that the teacher's certificate bears, if not the host's."""
    plaintext_token: bool = False
    """Send the token without TLS, on a network that is yours alone."""
    max_inflight_tokens: int = Field(default=65_536, ge=1)
    """Response tokens sent and not yet scored, of each replica."""
    max_dropped_share: float = Field(default=0.1, ge=0, le=1)
    """Share of a step's responses that may be lost, to unusable rows or missing scores; above it the run stops."""
