"""Settings of `rollout-server serve`: TOML first, then command-line overrides. Imports no torch and no vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from protos.address import is_loopback
from protos.rollout_info import RolloutLimits


class Settings(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerConfig(Settings):
    """Where the server listens."""

    host: str = "127.0.0.1"
    """Address to bind. Anything but loopback also needs `insecure`."""
    port: int = Field(default=50061, ge=0, le=65535)
    """Port to bind; 0 picks a free one (see `port_file`)."""
    port_file: Path | None = None
    """Once the server is ready its host:port is written here."""
    insecure: bool = False
    """Serve an open network without TLS or tokens: whoever reaches the port can replace the model's weights."""
    grace_s: float = Field(default=5.0, ge=0)
    """After SIGTERM, seconds to finish answers under way."""

    @model_validator(mode="after")
    def _loopback_or_insecure(self) -> ServerConfig:
        if not (self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"host {self.host!r} is reachable by others, and there is neither TLS nor a token: bind 127.0.0.1, "
                "or say --server.insecure if the network is yours alone"
            )
        return self


class EngineConfig(Settings):
    """VLLM's engine. Sampling itself has no settings: each request asks for the student's own policy."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; "auto" takes the checkpoint's. Logits are computed in float32 in any case."""
    context_length: int | None = Field(default=None, ge=1)
    """Expanded prompt and response together, tokens; None: the model's own."""
    max_running: int = Field(default=64, ge=1)
    """Responses that grow at a time; more wait."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share the model."""
    memory_share: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes; less where the student trains on the same GPU."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Keys and values, GiB; None: what `memory_share` leaves. Set it on a CPU."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens in a block of the cache; None: vLLM's choice. 32 on a CPU."""
    eager: bool = False
    """No compilation and no CUDA graphs: starts sooner, samples slower. Set it on a CPU."""
    prefix_cache: bool = True
    """Read the prompt that several responses share only once. Emptied with every update of the weights."""
    staging_dir: Path | None = None
    """Where weights are kept from their first byte until they are loaded, a model's size; None: the folder for
    temporary files."""


class LimitsConfig(Settings):
    """What a client may ask for. Published in Describe; every refusal names its limit."""

    max_request_bytes: int = Field(default=RolloutLimits.max_request_bytes, ge=1)
    """One request for samples, bytes; clients send more in several. gRPC's own limit is twice that."""
    max_responses: int = Field(default=RolloutLimits.max_responses, ge=1)
    """Responses to all prompts of one request."""
    max_images: int = Field(default=RolloutLimits.max_images, ge=0)
    """Images in one prompt."""
    max_image_pixels: int = Field(default=RolloutLimits.max_image_pixels, ge=1)
    """Width times height of one image."""
    max_new_tokens: int = Field(default=RolloutLimits.max_new_tokens, ge=1)
    """Longest response, tokens."""
    max_candidates: int = Field(default=RolloutLimits.max_candidates, ge=0)
    """The model's own top ids of each response token."""

    def published(self) -> RolloutLimits:
        """The limits as Describe tells them."""
        values = {name: getattr(self, name) for name in LimitsConfig.model_fields}
        return RolloutLimits(**values, max_message_bytes=2 * self.max_request_bytes)

    @model_validator(mode="after")
    def _chunk_fits(self) -> LimitsConfig:
        if self.max_request_bytes < RolloutLimits.max_chunk_bytes:
            raise ValueError(
                f"max_request_bytes {self.max_request_bytes} is too small for the pieces in which weights come; give "
                f"at least {RolloutLimits.max_chunk_bytes}"
            )
        return self


class ServeConfig(Settings):
    """Everything that `rollout-server serve` needs to know."""

    model: str = ""
    """Folder or hub id of the student that training starts from."""
    revision: str | None = None
    """Of a hub model."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the server says."""
    server: ServerConfig = ServerConfig()
    """Where the server listens."""
    engine: EngineConfig = EngineConfig()
    """What samples."""
    limits: LimitsConfig = LimitsConfig()
    """What a client may ask for."""
