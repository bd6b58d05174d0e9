from protos.v1 import teacher_pb2 as _teacher_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Policy(_message.Message):
    __slots__ = ("run", "version")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: int
    def __init__(self, run: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RolloutInfo(_message.Message):
    __slots__ = ("model_id", "tokenizer_fingerprint", "processor_fingerprint", "vocab_size", "context_length", "dtype", "policy", "limits", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    tokenizer_fingerprint: str
    processor_fingerprint: str
    vocab_size: int
    context_length: int
    dtype: str
    policy: Policy
    limits: Limits
    versions: _containers.ScalarMap[str, str]
    def __init__(self, model_id: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., processor_fingerprint: _Optional[str] = ..., vocab_size: _Optional[int] = ..., context_length: _Optional[int] = ..., dtype: _Optional[str] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., versions: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_request_bytes", "max_responses", "max_images", "max_image_pixels", "image_formats", "max_new_tokens", "max_candidates", "max_chunk_bytes")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMATS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_request_bytes: int
    max_responses: int
    max_images: int
    max_image_pixels: int
    image_formats: _containers.RepeatedScalarFieldContainer[str]
    max_new_tokens: int
    max_candidates: int
    max_chunk_bytes: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_responses: _Optional[int] = ..., max_images: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., image_formats: _Optional[_Iterable[str]] = ..., max_new_tokens: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_chunk_bytes: _Optional[int] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("policy", "prompts", "max_new_tokens", "candidates", "stop_ids", "suppressed_ids", "vocab_size", "greedy")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    STOP_IDS_FIELD_NUMBER: _ClassVar[int]
    SUPPRESSED_IDS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    prompts: _containers.RepeatedCompositeFieldContainer[SamplePrompt]
    max_new_tokens: int
    candidates: int
    stop_ids: _teacher_pb2.Array
    suppressed_ids: _teacher_pb2.Array
    vocab_size: int
    greedy: bool
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., prompts: _Optional[_Iterable[_Union[SamplePrompt, _Mapping]]] = ..., max_new_tokens: _Optional[int] = ..., candidates: _Optional[int] = ..., stop_ids: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., suppressed_ids: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., vocab_size: _Optional[int] = ..., greedy: _Optional[bool] = ...) -> None: ...

class SamplePrompt(_message.Message):
    __slots__ = ("ids", "images", "responses", "expanded_length", "seed")
    IDS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    EXPANDED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ids: _teacher_pb2.Array
    images: _containers.RepeatedScalarFieldContainer[bytes]
    responses: int
    expanded_length: int
    seed: int
    def __init__(self, ids: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., images: _Optional[_Iterable[bytes]] = ..., responses: _Optional[int] = ..., expanded_length: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class SampledResponse(_message.Message):
    __slots__ = ("prompt_index", "response_index", "policy", "response_ids", "logprobs", "candidate_splits", "candidate_ids", "finished")
    PROMPT_INDEX_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_INDEX_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SPLITS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    prompt_index: int
    response_index: int
    policy: Policy
    response_ids: _teacher_pb2.Array
    logprobs: _teacher_pb2.Array
    candidate_splits: _teacher_pb2.Array
    candidate_ids: _teacher_pb2.Array
    finished: bool
    def __init__(self, prompt_index: _Optional[int] = ..., response_index: _Optional[int] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., response_ids: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., logprobs: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., candidate_splits: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., candidate_ids: _Optional[_Union[_teacher_pb2.Array, _Mapping]] = ..., finished: _Optional[bool] = ...) -> None: ...

class WeightMessage(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: WeightsHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[WeightsHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class WeightsHeader(_message.Message):
    __slots__ = ("policy", "dtype", "weights")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    dtype: str
    weights: _containers.RepeatedCompositeFieldContainer[Weight]
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., dtype: _Optional[str] = ..., weights: _Optional[_Iterable[_Union[Weight, _Mapping]]] = ...) -> None: ...

class Weight(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class UpdateReply(_message.Message):
    __slots__ = ("policy", "receive_s", "load_s")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_S_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    receive_s: float
    load_s: float
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., receive_s: _Optional[float] = ..., load_s: _Optional[float] = ...) -> None: ...
