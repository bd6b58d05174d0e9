from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    F32: _ClassVar[DType]
    F16: _ClassVar[DType]
    I32: _ClassVar[DType]
    U8: _ClassVar[DType]

class TextContext(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_CONTEXT_DROP: _ClassVar[TextContext]
    TEXT_CONTEXT_GREY: _ClassVar[TextContext]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_TOPK: _ClassVar[Mode]
    MODE_VDS_ONLY: _ClassVar[Mode]
    MODE_SAMPLED_ONLY: _ClassVar[Mode]
    MODE_HIDDEN_STATES: _ClassVar[Mode]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_TRAIN: _ClassVar[Priority]
    PRIORITY_SCORE: _ClassVar[Priority]
DTYPE_UNSPECIFIED: DType
F32: DType
F16: DType
I32: DType
U8: DType
TEXT_CONTEXT_DROP: TextContext
TEXT_CONTEXT_GREY: TextContext
MODE_TOPK: Mode
MODE_VDS_ONLY: Mode
MODE_SAMPLED_ONLY: Mode
MODE_HIDDEN_STATES: Mode
PRIORITY_TRAIN: Priority
PRIORITY_SCORE: Priority

class Array(_message.Message):
    __slots__ = ("data", "dtype", "shape")
    DATA_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, data: _Optional[bytes] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TeacherInfo(_message.Message):
    __slots__ = ("teacher_id", "model_id", "model_revision", "model_fingerprint", "tokenizer_fingerprint", "processor_fingerprint", "special_ids", "vocab_size", "context_length", "limits", "capabilities", "engine", "dtype", "deterministic", "versions", "text_fingerprint")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TEACHER_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_IDS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    teacher_id: str
    model_id: str
    model_revision: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    processor_fingerprint: str
    special_ids: SpecialIds
    vocab_size: int
    context_length: int
    limits: Limits
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    dtype: str
    deterministic: bool
    versions: _containers.ScalarMap[str, str]
    text_fingerprint: str
    def __init__(self, teacher_id: _Optional[str] = ..., model_id: _Optional[str] = ..., model_revision: _Optional[str] = ..., model_fingerprint: _Optional[str] = ..., tokenizer_fingerprint: _Optional[str] = ..., processor_fingerprint: _Optional[str] = ..., special_ids: _Optional[_Union[SpecialIds, _Mapping]] = ..., vocab_size: _Optional[int] = ..., context_length: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., capabilities: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., dtype: _Optional[str] = ..., deterministic: _Optional[bool] = ..., versions: _Optional[_Mapping[str, str]] = ..., text_fingerprint: _Optional[str] = ...) -> None: ...

class SpecialIds(_message.Message):
    __slots__ = ("image_placeholder", "video_placeholder", "forbidden_in_response", "eos")
    IMAGE_PLACEHOLDER_FIELD_NUMBER: _ClassVar[int]
    VIDEO_PLACEHOLDER_FIELD_NUMBER: _ClassVar[int]
    FORBIDDEN_IN_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    EOS_FIELD_NUMBER: _ClassVar[int]
    image_placeholder: int
    video_placeholder: int
    forbidden_in_response: _containers.RepeatedScalarFieldContainer[int]
    eos: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, image_placeholder: _Optional[int] = ..., video_placeholder: _Optional[int] = ..., forbidden_in_response: _Optional[_Iterable[int]] = ..., eos: _Optional[_Iterable[int]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_item_bytes", "max_stream_bytes", "max_prompts", "max_images", "max_image_bytes", "max_image_pixels", "max_prompt_pixels", "image_formats", "max_k", "max_candidates", "max_response_tokens", "max_chunk_rows", "max_client_tokens", "max_client_bytes", "max_total_tokens", "max_total_bytes", "max_text_bytes")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_PIXELS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FORMATS_FIELD_NUMBER: _ClassVar[int]
    MAX_K_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_item_bytes: int
    max_stream_bytes: int
    max_prompts: int
    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_prompt_pixels: int
    image_formats: _containers.RepeatedScalarFieldContainer[str]
    max_k: int
    max_candidates: int
    max_response_tokens: int
    max_chunk_rows: int
    max_client_tokens: int
    max_client_bytes: int
    max_total_tokens: int
    max_total_bytes: int
    max_text_bytes: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_item_bytes: _Optional[int] = ..., max_stream_bytes: _Optional[int] = ..., max_prompts: _Optional[int] = ..., max_images: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_prompt_pixels: _Optional[int] = ..., image_formats: _Optional[_Iterable[str]] = ..., max_k: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_response_tokens: _Optional[int] = ..., max_chunk_rows: _Optional[int] = ..., max_client_tokens: _Optional[int] = ..., max_client_bytes: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., max_total_bytes: _Optional[int] = ..., max_text_bytes: _Optional[int] = ...) -> None: ...

class ClientMessage(_message.Message):
    __slots__ = ("put_prompt", "drop_prompt", "score", "cancel")
    PUT_PROMPT_FIELD_NUMBER: _ClassVar[int]
    DROP_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    put_prompt: PutPrompt
    drop_prompt: DropPrompt
    score: ScoreRequest
    cancel: Cancel
    def __init__(self, put_prompt: _Optional[_Union[PutPrompt, _Mapping]] = ..., drop_prompt: _Optional[_Union[DropPrompt, _Mapping]] = ..., score: _Optional[_Union[ScoreRequest, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class PutPrompt(_message.Message):
    __slots__ = ("prompt_id", "tokens", "chat", "media", "media_bounds", "text_context", "tokenizer_fingerprint", "processor_fingerprint", "expected_responses")
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_FIELD_NUMBER: _ClassVar[int]
    MEDIA_BOUNDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROCESSOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_RESPONSES_FIELD_NUMBER: _ClassVar[int]
    prompt_id: int
    tokens: TokenPrompt
    chat: ChatPrompt
    media: _containers.RepeatedCompositeFieldContainer[Media]
    media_bounds: MediaBounds
    text_context: TextContext
    tokenizer_fingerprint: str
    processor_fingerprint: str
    expected_responses: int
    def __init__(self, prompt_id: _Optional[int] = ..., tokens: _Optional[_Union[TokenPrompt, _Mapping]] = ..., chat: _Optional[_Union[ChatPrompt, _Mapping]] = ..., media: _Optional[_Iterable[_Union[Media, _Mapping]]] = ..., media_bounds: _Optional[_Union[MediaBounds, _Mapping]] = ..., text_context: _Optional[_Union[TextContext, str]] = ..., tokenizer_fingerprint: _Optional[str] = ..., processor_fingerprint: _Optional[str] = ..., expected_responses: _Optional[int] = ...) -> None: ...

class TokenPrompt(_message.Message):
    __slots__ = ("mm_ids", "text_ids")
    MM_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_IDS_FIELD_NUMBER: _ClassVar[int]
    mm_ids: Array
    text_ids: Array
    def __init__(self, mm_ids: _Optional[_Union[Array, _Mapping]] = ..., text_ids: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class ChatPrompt(_message.Message):
    __slots__ = ("messages_json",)
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    messages_json: str
    def __init__(self, messages_json: _Optional[str] = ...) -> None: ...

class Media(_message.Message):
    __slots__ = ("image", "video")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    video: Video
    def __init__(self, image: _Optional[bytes] = ..., video: _Optional[_Union[Video, _Mapping]] = ...) -> None: ...

class Video(_message.Message):
    __slots__ = ("frames", "fps")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    fps: float
    def __init__(self, frames: _Optional[_Iterable[bytes]] = ..., fps: _Optional[float] = ...) -> None: ...

class MediaBounds(_message.Message):
    __slots__ = ("min_pixels", "max_pixels")
    MIN_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    min_pixels: int
    max_pixels: int
    def __init__(self, min_pixels: _Optional[int] = ..., max_pixels: _Optional[int] = ...) -> None: ...

class DropPrompt(_message.Message):
    __slots__ = ("prompt_id",)
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    prompt_id: int
    def __init__(self, prompt_id: _Optional[int] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("request_id", "prompt_id", "response_ids", "response_text", "response_turns", "candidate_splits", "candidate_ids", "k", "mode", "dtype", "deadline_ms", "priority", "response_mask", "first_row", "end_row", "vocab_size", "token_texts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TEXT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TURNS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SPLITS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_IDS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_MASK_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    END_ROW_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXTS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    prompt_id: int
    response_ids: Array
    response_text: str
    response_turns: str
    candidate_splits: Array
    candidate_ids: Array
    k: int
    mode: Mode
    dtype: DType
    deadline_ms: int
    priority: Priority
    response_mask: Array
    first_row: int
    end_row: int
    vocab_size: int
    token_texts: bool
    def __init__(self, request_id: _Optional[int] = ..., prompt_id: _Optional[int] = ..., response_ids: _Optional[_Union[Array, _Mapping]] = ..., response_text: _Optional[str] = ..., response_turns: _Optional[str] = ..., candidate_splits: _Optional[_Union[Array, _Mapping]] = ..., candidate_ids: _Optional[_Union[Array, _Mapping]] = ..., k: _Optional[int] = ..., mode: _Optional[_Union[Mode, str]] = ..., dtype: _Optional[_Union[DType, str]] = ..., deadline_ms: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., response_mask: _Optional[_Union[Array, _Mapping]] = ..., first_row: _Optional[int] = ..., end_row: _Optional[int] = ..., vocab_size: _Optional[int] = ..., token_texts: _Optional[bool] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    def __init__(self, request_id: _Optional[int] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("prompt_ack", "scores", "error", "credit", "notice")
    PROMPT_ACK_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    prompt_ack: PromptAck
    scores: Scores
    error: ItemError
    credit: Credit
    notice: Notice
    def __init__(self, prompt_ack: _Optional[_Union[PromptAck, _Mapping]] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ..., credit: _Optional[_Union[Credit, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ...) -> None: ...

class PromptAck(_message.Message):
    __slots__ = ("prompt_id", "mm_length", "text_length")
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    MM_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    prompt_id: int
    mm_length: int
    text_length: int
    def __init__(self, prompt_id: _Optional[int] = ..., mm_length: _Optional[int] = ..., text_length: _Optional[int] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("request_id", "teacher_id", "first_row", "total_rows", "last", "row_splits", "support_ids", "mm_logprobs", "text_logprobs", "mm_tail", "text_tail", "tail_mask", "vds", "sampled_mm_logprobs", "sampled_text_logprobs", "response_ids", "echo", "queue_s", "engine_s", "token_texts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEACHER_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    ROW_SPLITS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    MM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TEXT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MM_TAIL_FIELD_NUMBER: _ClassVar[int]
    TEXT_TAIL_FIELD_NUMBER: _ClassVar[int]
    TAIL_MASK_FIELD_NUMBER: _ClassVar[int]
    VDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_MM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_TEXT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    ENGINE_S_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TEXTS_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    teacher_id: str
    first_row: int
    total_rows: int
    last: bool
    row_splits: Array
    support_ids: Array
    mm_logprobs: Array
    text_logprobs: Array
    mm_tail: Array
    text_tail: Array
    tail_mask: Array
    vds: Array
    sampled_mm_logprobs: Array
    sampled_text_logprobs: Array
    response_ids: Array
    echo: bytes
    queue_s: float
    engine_s: float
    token_texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[int] = ..., teacher_id: _Optional[str] = ..., first_row: _Optional[int] = ..., total_rows: _Optional[int] = ..., last: _Optional[bool] = ..., row_splits: _Optional[_Union[Array, _Mapping]] = ..., support_ids: _Optional[_Union[Array, _Mapping]] = ..., mm_logprobs: _Optional[_Union[Array, _Mapping]] = ..., text_logprobs: _Optional[_Union[Array, _Mapping]] = ..., mm_tail: _Optional[_Union[Array, _Mapping]] = ..., text_tail: _Optional[_Union[Array, _Mapping]] = ..., tail_mask: _Optional[_Union[Array, _Mapping]] = ..., vds: _Optional[_Union[Array, _Mapping]] = ..., sampled_mm_logprobs: _Optional[_Union[Array, _Mapping]] = ..., sampled_text_logprobs: _Optional[_Union[Array, _Mapping]] = ..., response_ids: _Optional[_Union[Array, _Mapping]] = ..., echo: _Optional[bytes] = ..., queue_s: _Optional[float] = ..., engine_s: _Optional[float] = ..., token_texts: _Optional[_Iterable[str]] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("request_id", "prompt_id", "code", "message", "field", "value", "limit", "retry_after_ms", "error_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    prompt_id: int
    code: int
    message: str
    field: str
    value: str
    limit: str
    retry_after_ms: int
    error_id: str
    def __init__(self, request_id: _Optional[int] = ..., prompt_id: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., limit: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., error_id: _Optional[str] = ...) -> None: ...

class Credit(_message.Message):
    __slots__ = ("granted_tokens",)
    GRANTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    granted_tokens: int
    def __init__(self, granted_tokens: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("draining", "message")
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    message: str
    def __init__(self, draining: _Optional[bool] = ..., message: _Optional[str] = ...) -> None: ...
