"""Text in, text out: the teacher's own chat template and tokenizer, for clients that have neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream

from protos.arrays import Ids, Mask, as_ids
from protos.errors import ErrorDetail, InvalidItem
from protos.prompt import ChatPrompt, Prompt
from teacher_server.chat_messages import (
    ChatMessage,
    check_prompt_messages,
    check_turns,
    parse_messages,
)

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class ChatFormat:
    """Renders with a Hugging Face processor; one thread at a time."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer

    def prompt(self, chat: ChatPrompt) -> Prompt:
        """Both contexts as ids. Raises InvalidItem."""
        messages = parse_messages(chat.messages, "messages_json")
        check_prompt_messages(messages, len(chat.images))
        mm_ids = self._ids(self._render(messages))
        text_ids = mm_ids
        if chat.images and chat.text_context == "drop":
            text_ids = self._ids(self._render(messages, with_images=False))
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
            content = "".join(part.text for part in turn.parts if part.type == "text")
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
        """The text of each token; together they are the decoded whole.

        A token that ends inside a character is "", the one that completes it has the character.
        """
        stream = DecodeStream(skip_special_tokens=False)
        backend = self._tokenizer.backend_tokenizer
        return tuple(stream.step(backend, int(i)) or "" for i in ids)

    def lone_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, such as of a candidate that was never chosen."""
        return self._tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False)

    def _render(self, messages: Sequence[ChatMessage], with_images: bool = True) -> str:
        """The messages, and the head of an assistant's turn."""
        rendered = [message.rendered(with_images) for message in messages]
        try:
            return self._processor.apply_chat_template(
                rendered, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates refuse what they were not made for in their own ways
            raise InvalidItem(
                f"the teacher's chat template refuses these messages: {error}",
                ErrorDetail("messages_json", str(error)[:100]),
            ) from error

    def _ids(self, text: str) -> Ids:
        return as_ids(self._tokenizer(text, add_special_tokens=False).input_ids)


def _rest(text: str, done: str, turn: int) -> str:
    if not text.startswith(done):
        raise InvalidItem(
            f"the teacher's chat template writes what stands before response_turns[{turn}] otherwise than when it was "
            "answered (some leave out past reasoning); score each turn as a response of its own",
            ErrorDetail(f"response_turns[{turn}]"),
        )
    return text[len(done) :]
