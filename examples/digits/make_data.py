r"""Write data/train.parquet, data/validation.parquet and data/heldout.parquet.

Run from the repository root: `python -m examples.digits.make_data`. Each row is one picture with
one question: `image` (a struct of PNG bytes and a null path, which `datasets.Image` reads),
`question` and `answer` (the text that belongs within \boxed{ }).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from examples.digits.pictures import compose, encode_png, load_split
from examples.digits.questions import KINDS, QUESTIONS, answer

DATA = Path(__file__).parent / "data"
ROWS = {"train": 4000, "validation": 500, "heldout": 1000}
SEEDS = {"train": 1, "validation": 2, "heldout": 3}
SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "question": pa.string(),
        "answer": pa.string(),
    }
)


def make_rows(split: str) -> list[dict]:
    """Draw the rows of a split: random pairs of its digit images, the kinds of question in turn."""
    digits = load_split(split)
    rng = np.random.default_rng(SEEDS[split])
    rows = []
    for index in range(ROWS[split]):
        left, right = rng.integers(len(digits), size=2)
        kind = KINDS[index % len(KINDS)]
        png = encode_png(compose(digits.images[left], digits.images[right]))
        rows.append(
            {
                "image": {"bytes": png, "path": None},
                "question": str(rng.choice(QUESTIONS[kind])),
                "answer": answer(kind, int(digits.labels[left]), int(digits.labels[right])),
            }
        )
    return rows


def main() -> None:
    """Write the three files."""
    DATA.mkdir(exist_ok=True)
    for split in ROWS:
        path = DATA / f"{split}.parquet"
        table = pa.Table.from_pylist(make_rows(split), schema=SCHEMA)
        pq.write_table(table, path, compression="zstd", compression_level=19)
        print(f"{path}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
