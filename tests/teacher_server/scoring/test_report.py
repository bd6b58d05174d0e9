import base64
import hashlib
import io
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from teacher_server import cli
from teacher_server.scoring.report import ReportConfig, write_report
from teacher_server.scoring.report_document import as_data, bundled_script
from teacher_server.scoring.report_histogram import VdsHistogram
from teacher_server.scoring.report_ranking import MEASURES, Ranking, Ranks
from teacher_server.scoring.report_samples import LONGEST
from teacher_server.scoring.report_tokens import TokenTally
from teacher_server.scoring.row_result import RowResult
from tests.teacher_server.scoring.scored_folder import (
    QUESTION,
    picture,
    scored_row,
    write_data,
    write_scores,
)

EVIL = '</script><script>alert("1")</script><!--<script>'


def embedded(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert len(found) == 1
    return json.loads(found[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 rows, of which every twentieth failed; row r has r % 5 digits."""
    tokens = [["the", *[" 7"] * (row % 5), " end", "\n"] for row in range(60)]
    tokens[7] = ["it", " is", EVIL]
    data = write_data(tmp_path / "data.parquet", ["".join(words) for words in tokens])
    results = [
        RowResult.failed(row, str(row), "no_image", f"row {row} has no image")
        if row % 20 == 19
        else scored_row(row, words)
        for row, words in enumerate(tokens)
    ]
    return write_scores(tmp_path / "scores", data, results, shard_rows=25)


def test_the_page_has_what_the_folder_holds(folder):
    facts = embedded(write_report(ReportConfig(folder=folder)))
    assert facts["counts"]["rows"], facts["counts"]["failed"] == (60, 3)
    assert facts["errors"] == [
        {
            "code": "no_image",
            "count": 3,
            "first": [
                {"row": r, "id": str(r), "error": f"row {r} has no image"} for r in (19, 39, 59)
            ],
        }
    ]
    assert len(facts["samples"]) == 57
    sample = facts["samples"][8]
    assert sample["row"] == 8
    assert "".join(sample["texts"]) == "the 7 7 7 end\n"
    assert sample["question"] == QUESTION
    assert facts["notice"] is None
    tokens = {row["text"]: row for row in facts["vocabulary"]["most"]}
    assert tokens[" 7"]["mean"] > 1000 * tokens["the"]["mean"]
    assert [d["low"] for d in facts["deciles"]] == sorted(d["low"] for d in facts["deciles"])
    assert sum(bar["tokens"] for bar in facts["bars"]) == facts["counts"]["tokens"]


def test_ranks_are_among_all_rows_though_few_are_shown(folder):
    every = {s["row"]: s for s in embedded(write_report(ReportConfig(folder=folder)))["samples"]}
    few = embedded(write_report(ReportConfig(folder=folder, samples=9)))["samples"]
    assert len(few) == 9
    for name in MEASURES:
        values = [sample["values"][name] for sample in every.values()]
        assert max(values) in [sample["values"][name] for sample in few]
        for sample in few:
            assert sample["ranks"] == every[sample["row"]]["ranks"]
            higher = sum(value > sample["values"][name] for value in values)
            assert sample["ranks"][name] == higher + 1


def test_thumbnails_are_small_webp_and_small_pictures_keep_every_pixel(folder):
    sample = embedded(write_report(ReportConfig(folder=folder)))["samples"][3]
    head, data = sample["images"][0].split(",")
    assert head == "data:image/webp;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.format == "WEBP"
    original = Image.open(io.BytesIO(picture(sample["row"])))
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(original))


def test_large_pictures_shrink():
    from teacher_server.scoring.report_pictures import thumbnail

    data = thumbnail(picture(1, (640, 400))).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (160, 100)


def test_where_the_data_are_gone_the_page_says_so(folder):
    (folder.parent / "data.parquet").rename(folder.parent / "moved.parquet")
    facts = embedded(write_report(ReportConfig(folder=folder)))
    assert "data.parquet" in facts["notice"]
    assert "images" not in facts["samples"][0]
    moved = str(folder.parent / "moved.parquet")
    facts = embedded(write_report(ReportConfig(folder=folder, data=moved)))
    assert facts["notice"] is None
    assert facts["samples"][0]["images"]


def test_data_that_were_not_scored_are_refused(folder):
    other = write_data(folder.parent / "other.parquet", ["one"])
    with pytest.raises(ValueError, match="not what was scored"):
        write_report(ReportConfig(folder=folder, data=str(other)))


def test_texts_can_not_leave_their_script_element(folder):
    text = write_report(ReportConfig(folder=folder)).read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert EVIL not in text
    assert json.loads(as_data({"text": EVIL + "\u2028&"})) == {"text": EVIL + "\u2028&"}
    assert not set("<>&\u2028\u2029") & set(as_data({"text": EVIL + "\u2028\u2029&"}))


def test_the_policy_names_the_hashes_of_what_is_there(folder):
    text = write_report(ReportConfig(folder=folder)).read_text(encoding="utf-8")
    for directive, element in (
        ("script-src", r'<script type="module">(.*?)</script>'),
        ("style-src", r"<style>(.*?)</style>"),
    ):
        content = re.search(element, text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert "http://" not in text
    assert "https://" not in text


def test_modules_put_end_to_end_share_no_name():
    script = bundled_script()
    assert not re.search(r"^(import|export)\b", script, re.M)
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script, re.M)
    assert len(names) > 30
    assert len(names) == len(set(names))


def test_an_unfinished_run_has_a_page_of_what_is_there(tmp_path):
    data = write_data(tmp_path / "data.parquet", ["a 7"] * 4)
    results = [scored_row(row, ["a", " 7"]) for row in range(3)]
    folder = write_scores(tmp_path / "scores", data, results, finished=False)
    facts = embedded(write_report(ReportConfig(folder=folder)))
    assert facts["finished"] is False
    assert facts["q70"] is None
    assert "share" not in facts["spans"]
    assert facts["samples"][0]["ranks"]["share"] is None


def test_where_every_row_failed_there_is_a_page_too(tmp_path):
    data = write_data(tmp_path / "data.parquet", ["a"] * 2)
    failed = [RowResult.failed(row, str(row), "no_image", "why") for row in range(2)]
    facts = embedded(write_report(ReportConfig(folder=write_scores(tmp_path / "s", data, failed))))
    assert (facts["counts"]["tokens"], facts["mean"], facts["deciles"]) == (0, None, [])
    assert facts["samples"] == []


def test_of_a_long_response_the_beginning_is_kept(tmp_path):
    words = ["so"] * (LONGEST + 500)
    data = write_data(tmp_path / "data.parquet", ["".join(words)])
    folder = write_scores(tmp_path / "s", data, [scored_row(0, words)])
    sample = embedded(write_report(ReportConfig(folder=folder)))["samples"][0]
    assert sample["tokens"] == LONGEST + 500
    assert {len(sample[name]) for name in ("ids", "texts", "vds", "mm", "text")} == {LONGEST}


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(rows: int) -> int:
        words = ["so", " it", " is", " 7"] * 16
        data = write_data(tmp_path / f"{rows}.parquet", ["".join(words)] * rows)
        results = [scored_row(row, words) for row in range(rows)]
        folder = write_scores(tmp_path / f"scores-{rows}", data, results, shard_rows=200)
        del results
        pool = pa.default_memory_pool()
        tracemalloc.start()
        write_report(ReportConfig(folder=folder, samples=20))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most + pool.bytes_allocated()

    peak(200)  # what is loaded once
    assert peak(3000) < peak(600) + 4 * 2**20


def test_deciles_agree_with_sorted_values():
    random = np.random.default_rng(0)
    vds = np.exp(random.normal(-4, 3, 20_000)).astype(np.float32)
    vds[:5000] = 0
    gains = random.normal(size=20_000).astype(np.float32)
    histogram = VdsHistogram()
    for first in range(0, 20_000, 777):
        histogram.add(vds[first : first + 777], gains[first : first + 777])
    edges = np.quantile(vds, np.linspace(0, 1, 11))
    tenths = np.sort(vds.astype(np.float64)).reshape(10, -1)
    for place, decile in enumerate(histogram.deciles()):
        assert decile.low == pytest.approx(edges[place], rel=2e-3, abs=1e-7)
        assert decile.high == pytest.approx(edges[place + 1], rel=2e-3, abs=1e-7)
        assert decile.mean == pytest.approx(tenths[place].mean(), rel=2e-3, abs=1e-7)
        assert decile.share == pytest.approx(tenths[place].sum() / tenths.sum(), rel=2e-3, abs=1e-6)
    bars = histogram.bars()
    assert sum(bar.tokens for bar in bars) == 20_000
    assert bars[0].tokens == np.count_nonzero(vds < 1e-6)


@pytest.mark.parametrize("values", [[0.0], [2.0], [0.0, 2.0], [1e9], [1e-9, 1e9]])
def test_a_histogram_of_few_values(values):
    histogram = VdsHistogram()
    histogram.add(np.float32([*values, np.nan]), np.zeros(len(values) + 1, np.float32))
    deciles = histogram.deciles()
    assert len(deciles) == 10
    assert (deciles[0].low, deciles[-1].high) == pytest.approx((min(values), max(values)))
    assert histogram.tokens == len(values)


def test_tokens_are_named_and_ranked():
    tally = TokenTally()
    texts = pa.array(["a", "", "b", "a"], pa.string())
    vds = np.float32([1, 5, 0.1, 2])
    tally.add(np.int32([3, 900, 7, 3]), texts, vds, 2 * vds)
    tally.add(np.int32([900]), pa.array(["é"], pa.string()), np.float32([5]), np.float32([0]))
    first, second = tally.most(1)
    assert (first.id, first.text, first.count, first.mean, first.gain) == (900, "é", 2, 5, 5)
    assert (second.id, second.mean, second.max) == (3, 1.5, 2)
    assert [one.text for one in tally.least(1)] == ["b"]
    assert [one.id for one in tally.most(2)] == [900]
    assert [one.id for one in tally.least(2)] == [3]
    assert tally.most(3) == tally.least(3) == []


def test_picks_hold_both_ends_and_what_is_between():
    ranking = Ranking(samples=30)
    rows = np.arange(10_000)
    means = np.random.default_rng(1).permutation(10_000) / 10_000
    for first in range(0, 10_000, 999):
        part = slice(first, first + 999)
        none = np.full(len(rows[part]), np.nan)
        values = dict.fromkeys(MEASURES, none) | {"mean": means[part]}
        ranking.add(rows[part], values)
    picks = ranking.picks()
    assert len(picks) == 30
    shown = np.sort(means[picks])
    assert np.allclose(shown[:10], np.arange(10) / 10_000)
    assert np.allclose(shown[-10:], np.arange(9990, 10_000) / 10_000)
    assert np.abs(shown[10:20] - np.linspace(0, 1, 10)).max() < 0.05
    assert ranking.span("mean") == (0.0, 0.9999)
    assert ranking.span("gain") is None


def test_equal_values_share_a_rank():
    ranks = Ranks({"mean": np.array([1.0, 3.0, 1.0, np.nan])})
    ranks.add({"mean": np.array([3.0, 2.0, np.nan])})
    ranks.add({"mean": np.array([1.0, 1.0, 0.5])})
    assert ranks.of("mean") == [3, 1, 3, None]


def test_the_command(folder, capsys):
    assert cli.main(["report", str(folder), "--samples", "5"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (folder / "report.html").stat().st_size > 10_000
    assert cli.main(["report", str(folder / "nowhere")]) == 2
    assert "teacher-server score" in capsys.readouterr().err
