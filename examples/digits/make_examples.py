r"""Write explorer/examples.jsonl and its pictures: what the explorer page of the toy's teacher offers to look at.

Run from the repository root: `python -m examples.digits.make_examples`. Rows have `name`, `image` (a path beside the
file), `question` and `answer`: a worked response, in the last two rows a wrong one.
"""

import json
from pathlib import Path

from examples.digits.pictures import compose, encode_png, load_split
from examples.digits.questions import KINDS, QUESTIONS, response

FOLDER = Path(__file__).parent / "explorer"
PAIRS = [(3, 11), (20, 7), (41, 5), (8, 30)]
"""Held-out digit images, left and right."""
WRONG = [(PAIRS[0], PAIRS[1]), (PAIRS[2], PAIRS[3])]
"""The pair that is shown, and the pair that the answer is about."""


def main() -> None:
    """Write the files anew."""
    FOLDER.mkdir(exist_ok=True)
    digits = load_split("heldout")
    cases = [(pair, pair) for pair in PAIRS] + WRONG
    rows = []
    for i, (shown, told) in enumerate(cases):
        kind = KINDS[i % len(KINDS)]
        path = f"digits-{i}.png"
        (FOLDER / path).write_bytes(encode_png(compose(*(digits.images[n] for n in shown))))
        left, right = (int(digits.labels[n]) for n in told)
        question = str(QUESTIONS[kind][0])
        name = question if shown == told else f"{question} (a wrong answer)"
        rows.append(
            {
                "name": name,
                "image": path,
                "question": question,
                "answer": response(kind, left, right),
            }
        )
    lines = [json.dumps(row) + "\n" for row in rows]
    (FOLDER / "examples.jsonl").write_text("".join(lines))
    print(f"{len(rows)} examples in {FOLDER}")


if __name__ == "__main__":
    main()
