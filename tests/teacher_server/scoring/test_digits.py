"""What the scores say of the toy, where what depends on the picture is known."""

import numpy as np
import pytest

from teacher_server.scoring import score_dataset
from tests.teacher_server.scoring.digits import as_parquet, digit_rows
from tests.teacher_server.scoring.rows import scored_rows

CASES = 200


@pytest.fixture(scope="module")
def scored(digits_teacher, tmp_path_factory):
    """Rows with the right picture, and the same rows with the next one's."""
    folder = tmp_path_factory.mktemp("digits")
    right = digit_rows(CASES, seed=11)
    swapped = [row | {"image": right[i - 1]["image"]} for i, row in enumerate(right)]
    data = as_parquet(folder / "a.parquet", right + swapped)
    assert score_dataset(data, teacher=digits_teacher, out=folder / "out").counts.failed == 0
    rows = scored_rows(folder / "out")
    return rows[:CASES], rows[CASES:]


def test_digits_depend_on_the_picture_and_the_template_does_not(scored):
    right, _ = scored
    tokens = [pair for row in right for pair in zip(row["token_texts"], row["vds"], strict=True)]
    digits = [vds for text, vds in tokens if text.strip().isdigit()]
    template = [vds for text, vds in tokens if not text.strip().isdigit()]
    assert len(digits) > 2 * CASES
    assert len(template) > 2 * CASES
    assert np.mean(digits) >= 5 * np.mean(template)


def test_the_right_picture_gains_more_than_another(scored):
    right, swapped = scored
    wins = [a["sequence_gain"] > b["sequence_gain"] for a, b in zip(right, swapped, strict=True)]
    assert np.mean(wins) >= 0.9
    assert [a["token_ids"] for a in right] == [b["token_ids"] for b in swapped]
