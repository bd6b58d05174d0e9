"""Settings of `teacher-server serve`: TOML first, then command-line overrides. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from protos.address import is_loopback
from protos.teacher_info import Limits
from teacher_server.settings import Settings


class TlsConfig(Settings):
    """Encryption of the gRPC port. The files are read again when they change."""

    certificate_file: Path
    """PEM of the server's certificate, with those that vouch for it."""
    key_file: Path
    """PEM of its key."""
    client_ca_file: Path | None = None
    """PEM of the authorities of clients' certificates. Given it, a client must show one (mutual TLS)."""

    @model_validator(mode="after")
    def _files_are_there(self) -> TlsConfig:
        for name in ("certificate_file", "key_file", "client_ca_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(
                    f"{name} {path} is not a file; docs/security-setup.md tells how to make one"
                )
        return self


class ServerConfig(Settings):
    """Where the server listens."""

    host: str = "127.0.0.1"
    """Address to bind. Anything but loopback also needs TLS, a clients file or `insecure`."""
    port: int = Field(default=50051, ge=0, le=65535)
    """Port to bind; 0 picks a free one (see `port_file`)."""
    port_file: Path | None = None
    """Once the server is ready its host:port is written here."""
    tls: TlsConfig | None = None
    """Encryption of the gRPC port."""
    clients_file: Path | None = None
    """Who may use the teacher, with weights and quotas (teacher_server/client_file.py). Read again when it changes."""
    http_host: str = "127.0.0.1"
    """Address of the HTTP port; it is guarded as `host` is, and anything but loopback speaks TLS if there is any."""
    http_port: int | None = Field(default=8080, ge=0, le=65535)
    """Port of health, metrics, scoring over HTTP and the explorer page; 0 picks a free one, None: no HTTP."""
    examples_file: Path | None = None
    """JSONL with image, question and answer: what the explorer page offers to look at."""
    reflection: bool = True
    """Tell the schema to tools such as grpcurl."""
    insecure: bool = False
    """Serve an open network without TLS or tokens: whoever reaches the port can use the teacher."""
    grace_s: float = Field(default=30.0, ge=0)
    """After SIGTERM, seconds to finish what was admitted."""
    write_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that an answer waits for a client which does not read; after it the client's stream is ended."""

    @model_validator(mode="after")
    def _loopback_or_guarded(self) -> ServerConfig:
        guarded = self.tls is not None or self.clients_file is not None
        hosts = [("host", self.host)]
        if self.http_port is not None:
            hosts.append(("http_host", self.http_host))
        for name, host in hosts:
            if self.insecure or guarded or is_loopback(host):
                continue
            raise ValueError(
                f"{name} {host!r} is reachable by others, and there is neither TLS nor a token: bind 127.0.0.1, "
                "name --server.clients-file or --server.tls files, or say --server.insecure if the network is yours "
                "alone"
            )
        return self


class TransformersEngineConfig(Settings):
    """The embedded engine: any AutoModelForImageTextToText, on a CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    """The engine."""
    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda", "cuda:1"."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; "auto" takes the checkpoint's. Scores are computed in float32 in any case."""
    attn_implementation: str | None = None
    """Passed to transformers, such as "sdpa"."""
    revision: str | None = None
    """Of a hub model."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the engine; None leaves torch's choice."""
    deterministic: bool = False
    """One response per forward and no shared prefix: the same request gives the same bits, whatever else is in
    flight."""
    max_batch_tokens: int = Field(default=16_384, ge=1)
    """Padded tokens in one forward pass, both contexts counted."""
    score_batch_tokens: int = Field(default=4096, ge=1)
    """The same where nobody trains: jobs of priority "score" fill idle time, and a trainer's wait at most this long."""
    batch_wait_ms: float = Field(default=1.0, ge=0)
    """How long an idle engine waits for company before it takes a first item, milliseconds."""
    share_prefix: bool = True
    """Encode a prompt's images and tokens once for all of its responses."""
    prefix_cache_tokens: int = Field(default=65_536, ge=0)
    """Prompt tokens whose keys and values are kept for responses still to come."""
    chunk_rows: int = Field(default=256, ge=1)
    """Rows whose full-vocabulary log-probabilities exist at a time: 256 rows of 152k are 0.15 GiB a copy."""


class VllmEngineConfig(Settings):
    """vLLM inside the server's process group: paged, continuously batched, parallel over GPUs."""

    kind: Literal["vllm"] = "vllm"
    """The engine."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights and the hidden states; logits and scores are float32 in any case."""
    quantization: str | None = None
    """vLLM's name of a quantisation, such as "fp8"; None: as the checkpoint says. A checkpoint whose head is quantised
    is refused by vLLM."""
    revision: str | None = None
    """Of a hub model."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share every layer."""
    pipeline_parallel_size: int = Field(default=1, ge=1)
    """Groups of GPUs that share the layers out."""
    data_parallel_size: int = Field(default=1, ge=1)
    """Whole copies of the model. Both contexts of all responses to one prompt go to the same copy."""
    nodes: int = Field(default=1, ge=1)
    """Machines that serve the model together, by vLLM's multi-node mode; each is started with these same settings."""
    node_rank: int = Field(default=0, ge=0)
    """Which of them this is: 0 answers, the others compute for it."""
    master_address: str = "127.0.0.1"
    """Host of machine 0; its port 29501 is vLLM's."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM plans with."""
    kv_cache_gb: float | None = Field(default=None, gt=0)
    """Gigabytes for keys and values; None: what the share of memory leaves. On a CPU say it."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Longest expanded prompt with response, tokens; None: the model's own."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests in one step; a response takes two."""
    max_batch_tokens: int = Field(default=8192, ge=1)
    """Tokens in one step; longer prompts are run in chunks."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens in a block of keys and values, the grain of prefix reuse; None: vLLM's choice, 32 on a CPU."""
    enforce_eager: bool = False
    """Run without compilation and CUDA graphs: starts sooner, runs slower."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of the engine; None leaves vLLM's choice. For a GPU it means nothing."""
    share_prefix: bool = True
    """Reuse a prompt's keys and values, and its images' encodings, for all of its responses."""
    image_cache_gb: float = Field(default=4.0, ge=0)
    """Gigabytes of processed images that the engine keeps, so that a prompt's responses send them once. With several
    copies of the model vLLM keeps none."""
    chunk_rows: int = Field(default=256, ge=1)
    """Rows whose full-vocabulary log-probabilities exist at a time: 256 rows of 152k are 0.15 GiB a copy."""
    admitted_tokens: int | None = Field(default=None, ge=1)
    """Tokens of both contexts that vLLM has to schedule at a time; others wait their client's turn before it. None:
    four full steps."""
    max_parked_rows: int = Field(default=65_536, ge=1)
    """Response tokens of which one context waits for the other with its states on the device: 0.5 GiB for a hidden size
    of 4,096 in bfloat16. It must hold the longest response."""
    pair_timeout_s: float = Field(default=60.0, gt=0)
    """How often halves that nobody waits for any more are looked for and dropped."""

    @model_validator(mode="after")
    def _rank_is_a_node(self) -> VllmEngineConfig:
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank {self.node_rank} of {self.nodes} nodes: count from 0")
        return self


EngineConfig = Annotated[TransformersEngineConfig | VllmEngineConfig, Field(discriminator="kind")]


class LimitsConfig(Settings):
    """What a client may ask for. Published in Describe; every refusal names its limit."""

    max_item_bytes: int = Field(default=Limits.max_item_bytes, ge=1)
    """One prompt or request, bytes. gRPC's own limit is twice that."""
    max_stream_bytes: int = Field(default=Limits.max_stream_bytes, ge=1)
    """Prompts kept for one stream, bytes, as the engine keeps them: a picture of a megapixel takes 12 MB in bfloat16
    for Qwen3-VL."""
    max_prompts: int = Field(default=Limits.max_prompts, ge=1)
    """Prompts kept for one stream."""
    max_images: int = Field(default=Limits.max_images, ge=0)
    """Images in one prompt."""
    max_image_bytes: int = Field(default=Limits.max_image_bytes, ge=1)
    """One encoded image, bytes."""
    max_image_pixels: int = Field(default=Limits.max_image_pixels, ge=1)
    """Width times height of one image."""
    max_prompt_pixels: int = Field(default=Limits.max_prompt_pixels, ge=1)
    """Pixels of all images in one prompt."""
    max_k: int = Field(default=Limits.max_k, ge=1)
    """Teacher's top-k."""
    max_candidates: int = Field(default=Limits.max_candidates, ge=0)
    """Student's candidates per response token."""
    max_response_tokens: int = Field(default=Limits.max_response_tokens, ge=1)
    """Tokens of one response."""
    max_chunk_rows: int = Field(default=Limits.max_chunk_rows, ge=1)
    """Rows in one Scores message."""
    max_client_tokens: int = Field(default=Limits.max_client_tokens, ge=1)
    """Response tokens that one client may have under way over all its streams; the clients file may say otherwise."""
    max_client_bytes: int = Field(default=Limits.max_client_bytes, ge=1)
    """Bytes of one client's prompts kept and items under way; the clients file may say otherwise."""
    max_total_tokens: int = Field(default=Limits.max_total_tokens, ge=1)
    """Response tokens under way, all clients together."""
    max_total_bytes: int = Field(default=Limits.max_total_bytes, ge=1)
    """Bytes of prompts kept and items under way, all clients together: what the server may need beside the model."""
    max_text_bytes: int = Field(default=Limits.max_text_bytes, ge=1)
    """A prompt's messages, or a response given as text, bytes: what is rendered and tokenised here."""
    stream_window_tokens: int = Field(default=65_536, ge=1)
    """Response tokens that one stream may have under way."""

    @model_validator(mode="after")
    def _every_window_holds_a_response(self) -> LimitsConfig:
        for name in ("stream_window_tokens", "max_client_tokens", "max_total_tokens"):
            if getattr(self, name) < self.max_response_tokens:
                raise ValueError(
                    f"{name} {getattr(self, name)} is below max_response_tokens {self.max_response_tokens}: the "
                    "longest response could never be sent; raise the one or lower the other"
                )
        return self

    def published(self) -> Limits:
        """The limits as Describe tells them."""
        names = set(Limits.__dataclass_fields__) & set(LimitsConfig.model_fields)
        values = {name: getattr(self, name) for name in names}
        return Limits(**values, max_message_bytes=2 * self.max_item_bytes)


class ServeConfig(Settings):
    """Everything that `teacher-server serve` needs to know."""

    model: str = ""
    """Folder or hub id of the teacher."""
    teacher_id: str = "teacher"
    """Name that stands in every answer."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the server says."""
    server: ServerConfig = ServerConfig()
    """Where the server listens."""
    engine: EngineConfig = TransformersEngineConfig()
    """What computes the scores."""
    limits: LimitsConfig = LimitsConfig()
    """What a client may ask for."""

    @field_validator("engine", mode="before")
    @classmethod
    def _transformers_unless_said(cls, value: Any) -> Any:
        return {"kind": "transformers"} | value if isinstance(value, dict) else value
