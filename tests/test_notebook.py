"""The notebook's cells, run in order against the toy's teacher."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TOY
from tests.loopback import serving

NOTEBOOK = Path("examples/vds.ipynb")


def test_every_cell_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cells = [c for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    with serving(TOY / "teacher") as address:
        for cell in cells:
            source = "".join(cell["source"]).replace("127.0.0.1:50051", address)
            source = source.replace("runs/vds-notebook", str(tmp_path / "scores"))
            exec(compile(source, str(NOTEBOOK), "exec"), names)
            assert cell["outputs"] == [], "it is kept without outputs"
    assert len(cells) == 5
    gains = names["gains"]
    assert all(max(of_row) == of_row[i] for i, of_row in enumerate(gains)), "its own picture"
    assert names["manifest"].counts.failed == 0
    assert len(names["kept"].rows) == 3
    digits = [
        v
        for t, v in zip(names["scores"].token_texts, names["scores"].vds, strict=True)
        if t == " 2"
    ]
    assert digits[0] > 1
    assert "kept rows" in capsys.readouterr().out
