"""The benchmark of scoring a data set, in small."""

import json
import sys

import pytest

from benchmarks.scoring.__main__ import main


async def test_figures_come_with_what_they_are_of(tmp_path, monkeypatch):
    out = tmp_path / "scoring.json"
    monkeypatch.setattr(sys, "argv", ["scoring", "--rows", "300", "--out", str(out)])
    await main()
    figures = json.loads(out.read_text())
    assert figures["rows"] == 300
    assert 30 * 300 < figures["tokens"] < 90 * 300
    offered = figures["engine_tokens_per_s"] * 300 / figures["tokens"]
    assert figures["engine_rows_per_s"] == pytest.approx(offered)
    assert 0 < figures["throughput_over_engine"] < 1.01
    assert figures["client_baseline_mib"] > 10
    assert figures["client_peak_growth_mib"] < 300
    assert {"machine", "versions", "date"} <= figures.keys()
