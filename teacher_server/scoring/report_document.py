"""One HTML file out of template, styles, scripts and data: it needs nothing but itself.

The scripts are the explorer's and the report's own modules, put end to end. The page's policy names the hashes of its
one script and its one style, so that nothing else in it could ever run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

PAGE = Path(__file__).with_name("report_page")
SHARED = Path(__file__).parents[1] / "explorer"
STYLES = (SHARED / "theme.css", SHARED / "tokens.css", PAGE / "report.css")
SCRIPTS = (
    *(SHARED / name for name in ("element.js", "numbers.js", "vds_scale.js", "token_list.js")),
    *(PAGE / name for name in ("chart.js", "tooltip.js", "samples.js", "tables.js", "report.js")),
)
"""Each after those that it imports from."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "[^"]*";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class|let)\b)", re.MULTILINE)
_MARKUP = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def document(title: str, data: Mapping[str, Any]) -> str:
    """The whole page. Numbers in `data` are finite or None."""
    style, script = bundled_style(), bundled_script()
    template = Template((PAGE / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=as_data(data),
    )


def bundled_script() -> str:
    """All modules as one, in which what they export and import are plain names."""
    joined = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    return _EXPORT.sub("", _IMPORT.sub("", joined))


def bundled_style() -> str:
    """All style sheets as one."""
    return "\n".join(path.read_text(encoding="utf-8") for path in STYLES)


def as_data(data: Mapping[str, Any]) -> str:
    """JSON in which nothing can end the script element that holds it. Raises ValueError for NaN."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_MARKUP)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
