"""Text in, text out: the teacher's own chat template and tokenizer, for clients that have neither."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from protos.arrays import Ids, Mask, as_ids
from protos.errors import ErrorDetail, InvalidItem
from protos.prompt import ChatPrompt, Prompt
from protos.prompt_ids import prompt_ids
from teacher_server.chat_messages import (
    ChatMessage,
    TextPart,
    check_prompt_messages,
    check_turns,
    parse_messages,
)

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
CHARACTER_BYTES = 4
"""Of UTF-8, at most; a token has one at least."""
WINDOW = 2 * CHARACTER_BYTES
"""Tokens that may wait for the end of a character before it is seen that there is none."""
PROBE = "zebra"
"""Stands for a content when a template is tried; every tokenizer has these letters."""


class ChatFormat:
    """Renders with a Hugging Face processor; one thread at a time."""

    def __init__(self, processor: Any) -> None:
        """Raises ValueError for a processor without a chat template."""
        if not getattr(processor, "chat_template", None):
            raise ValueError("the processor has no chat template")
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._plain_roles = frozenset(
            role for role in ("system", "user", "assistant") if not self._takes_parts(role)
        )

    @classmethod
    def of(cls, processor: Any) -> ChatFormat | None:
        """None for a processor without a chat template: its clients send ids."""
        return cls(processor) if getattr(processor, "chat_template", None) else None

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over what makes ids of messages and texts: the chat template and the tokenizer's whole state."""
        state = hashlib.sha256(b"vgs.text.1")
        for part in (str(self._processor.chat_template), self._tokenizer_state()):
            data = part.encode("utf-8", "surrogatepass")
            state.update(len(data).to_bytes(8, "little") + data)
        return state.hexdigest()

    def prompt(self, chat: ChatPrompt) -> Prompt:
        """Both contexts as ids. Raises InvalidItem."""
        messages = parse_messages(chat.messages, "messages_json")
        check_prompt_messages(messages, len(chat.images))
        mm_ids = prompt_ids(self._tokenizer, self._render(messages))
        text_ids = mm_ids
        if chat.images and chat.text_context == "drop":
            text_ids = prompt_ids(self._tokenizer, self._render(messages, with_images=False))
        return Prompt(
            mm_ids=mm_ids,
            text_ids=text_ids,
            images=chat.images,
            expected_responses=chat.expected_responses,
            text_context=chat.text_context,
        )

    def response(self, text: str) -> Ids:
        """A response's ids, i32 [T]; nothing is added. Raises InvalidItem where there is nothing."""
        ids = self._ids(text)
        if not len(ids):
            raise InvalidItem(
                "response_text is empty; send the answer that is to be scored",
                ErrorDetail("response_text", "0 tokens", ">= 1 token"),
            )
        return ids

    def turns(self, messages_text: str, turns_text: str) -> tuple[Ids, Mask]:
        """What follows a chat prompt's messages: ids i32 [T], and which are of an assistant's content, bool [T].

        Contents and what the template writes between them are tokenised apart, as they are when a model answers turn
        by turn. Raises InvalidItem, also where the template writes past turns otherwise than present ones.
        """
        messages = parse_messages(messages_text, "messages_json")
        turns = parse_messages(turns_text, "response_turns")
        check_turns(turns)
        done = self._render(messages)
        ids: list[Ids] = []
        masks: list[Mask] = []

        def add(text: str, scored: bool) -> None:
            ids.append(self._ids(text))
            masks.append(np.full(len(ids[-1]), scored))

        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before = self._render([*messages, *turns[:i]])
            content = "".join(part.text for part in turn.parts if isinstance(part, TextPart))
            if i:
                add(_rest(before, done, i), scored=False)
            add(content, scored=True)
            done = before + content
        joined, mask = np.concatenate(ids), np.concatenate(masks)
        if not mask.any():
            raise InvalidItem(
                "response_turns has no token of the assistant's; send answers that are to be scored",
                ErrorDetail("response_turns", "0 tokens", ">= 1 token"),
            )
        return joined, mask

    def texts(self, ids: Ids | Sequence[int]) -> tuple[str, ...]:
        """The text of each token, i32 [T]: together the decoded whole, if its bytes are characters.

        A token that ends inside a character is "", the one that completes it has the character. What never becomes one
        stands where that is certain.
        """
        numbers = [int(i) for i in ids]
        texts: list[str] = []
        # What stands before moves how a token is written: the piece that was given out last is decoded along.
        first = shown = 0
        for end in range(1, len(numbers) + 1):
            known = self._decoded(numbers[first:shown])
            text = self._decoded(numbers[first:end])
            if not text.endswith(INCOMPLETE) or end == len(numbers):
                texts.append(text[len(known) :])
                first, shown = shown, end
                continue
            if end - shown > WINDOW:  # only the last bytes may still become a character
                cut = end - CHARACTER_BYTES + 1
                texts[cut - 1] = self._decoded(numbers[first:cut])[len(known) :]
                first = shown = cut
            texts.append("")
        return tuple(texts)

    def lone_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, such as of a candidate that was never chosen."""
        return self._tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False)

    def _render(self, messages: Sequence[ChatMessage], with_images: bool = True) -> str:
        """The messages, and the head of an assistant's turn."""
        rendered = [self._rendered(message, with_images) for message in messages]
        try:
            return self._template(rendered)
        except Exception as error:  # templates refuse what they were not made for in their own ways
            raise InvalidItem(
                f"the teacher's chat template refuses these messages: {error}",
                ErrorDetail("messages_json", str(error)[:100]),
            ) from error

    def _rendered(self, message: ChatMessage, with_images: bool) -> dict[str, Any]:
        if message.role not in self._plain_roles:
            return message.rendered(with_images)
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        if with_images and message.images:
            raise InvalidItem(
                f"the teacher's chat template shows no images in a turn of the {message.role}'s; put them elsewhere",
                ErrorDetail("messages_json", message.role),
            )
        return {"role": message.role, "content": "".join(texts)}

    def _template(self, messages: Sequence[dict[str, Any]]) -> str:
        return self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _takes_parts(self, role: str) -> bool:
        """Whether the template writes a content that is a list of parts; some print the list as Python does."""
        user = {"role": "user", "content": [{"type": "text", "text": "?"}]}
        turn = {"role": role, "content": [{"type": "text", "text": PROBE}]}
        messages = {"system": [turn, user], "user": [turn], "assistant": [user, turn, user]}[role]
        try:
            text = self._template(messages)
        except (
            Exception
        ):  # a plain text may be all it takes; if not, messages are refused by what it says
            return False
        return PROBE in text and "'type'" not in text

    def _ids(self, text: str) -> Ids:
        return as_ids(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _tokenizer_state(self) -> str:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return repr(self._tokenizer) if backend is None else backend.to_str()


def _rest(text: str, done: str, turn: int) -> str:
    if not text.startswith(done):
        raise InvalidItem(
            f"the teacher's chat template writes what stands before response_turns[{turn}] otherwise than when it was "
            "answered (some leave out past reasoning, some put a space before past answers); score each turn as a "
            "response of its own",
            ErrorDetail(f"response_turns[{turn}]"),
        )
    return text[len(done) :]
