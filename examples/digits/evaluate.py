"""Figures of a model folder on held-out questions: greedy accuracy, and VDS by kind of token.

Run from the repository root: `python -m examples.digits.evaluate examples/digits/models/teacher`.
Only the shipped data files and the model folder are used, as any other program would use them.
"""

import argparse
import io
import re
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from examples.digits.batches import render
from examples.digits.make_data import DATA

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def last_boxed(text: str) -> str | None:
    r"""Return what stands in the last \boxed{...} of a response, without blanks around it."""
    found = BOXED.findall(text)
    return found[-1].strip() if found else None


def load_rows(split: str, limit: int | None = None) -> list[dict]:
    """Return the first rows of a data file, the image as a PIL picture."""
    rows = pq.read_table(DATA / f"{split}.parquet").slice(0, limit).to_pylist()
    for row in rows:
        row["image"] = Image.open(io.BytesIO(row["image"]["bytes"]))
    return rows


def greedy_responses(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    rows: list[dict],
    batch_size: int = 100,
) -> list[str]:
    """Return the greedy response to each row, as text without special tokens."""
    responses = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        inputs = processor(
            text=[render(processor, row["question"], with_picture=True) for row in batch],
            images=[row["image"] for row in batch],
            padding=True,
            return_tensors="pt",
        )
        output_ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
        response_ids = output_ids[:, inputs["input_ids"].shape[1] :]
        responses += processor.batch_decode(response_ids, skip_special_tokens=True)
    return responses


def accuracy(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, rows: list[dict]
) -> float:
    """Return the fraction of rows that the model answers correctly, greedily."""
    responses = greedy_responses(model, processor, rows)
    right = [last_boxed(text) == row["answer"] for text, row in zip(responses, rows, strict=True)]
    return sum(right) / len(rows)


@torch.inference_mode()
def response_logprobs(
    model: Qwen3VLForConditionalGeneration,
    processor: Qwen3VLProcessor,
    row: dict,
    response_ids: torch.Tensor,
    with_picture: bool,
) -> torch.Tensor:
    """Return the log-probabilities [T, V], in nats; row t scores response token t."""
    inputs = processor(
        text=[render(processor, row["question"], with_picture)],
        images=[row["image"]] if with_picture else None,
        return_tensors="pt",
    )
    padding = {"input_ids": response_ids, "attention_mask": torch.ones_like(response_ids)}
    padding["mm_token_type_ids"] = torch.zeros_like(response_ids)
    for key in padding.keys() & inputs.keys():
        inputs[key] = torch.cat([inputs[key], padding[key][None]], dim=1)
    logits = model(**inputs).logits[0, -len(response_ids) - 1 : -1]
    return logits.float().log_softmax(-1)


def visual_dependency(
    model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, rows: list[dict]
) -> tuple[float, float]:
    """Return the mean VDS, in nats, of the digits read off and of all other response tokens.

    VDS is KL(q_T(.|I,x) || q_T(.|x)) at each token of the model's own greedy response. The digits
    read off are those after "left" and "right".
    """
    read_off, other = [], []
    for row, text in zip(rows, greedy_responses(model, processor, rows), strict=True):
        words = text.split()
        ids = processor.tokenizer(text + processor.tokenizer.eos_token, return_tensors="pt")
        response_ids = ids.input_ids[0]
        mm, blind = (
            response_logprobs(model, processor, row, response_ids, with_picture)
            for with_picture in (True, False)
        )
        vds = (mm.exp() * (mm - blind)).sum(-1)  # [T]
        for index, value in enumerate(vds.tolist()):
            is_digit = index > 0 and words[index - 1] in ("left", "right")
            (read_off if is_digit else other).append(value)
    return sum(read_off) / len(read_off), sum(other) / len(other)


def main() -> None:
    """Print the figures of one model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    processor = AutoProcessor.from_pretrained(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model).eval()
    rows = load_rows("heldout")
    print(f"heldout accuracy {accuracy(model, processor, rows):.3f} of {len(rows)}")
    read_off, other = visual_dependency(model, processor, rows[:100])
    print(f"mean VDS: digits read off {read_off:.2f} nats, other tokens {other:.1g} nats")


if __name__ == "__main__":
    main()
