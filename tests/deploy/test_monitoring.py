"""Dashboard, rules and scrape configuration ask for numbers that the server exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from teacher_server.metrics import Metrics

FOLDER = Path("deploy/monitoring")
DASHBOARD = FOLDER / "grafana" / "teacher.json"
CONFIGURATIONS = ["prometheus.yml", "prometheus-tls.yml"]
OPERATIONS = Path("docs/operations.md")
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not on PATH: it comes with Prometheus"
)


def exported() -> set[str]:
    """Names of the series, as a scrape has them."""
    return {
        family.name + suffix
        for family in Metrics().registry.collect()
        for suffix in SUFFIXES.get(family.type, [""])
    }


def asked_for(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:teacher|process)_\w+", expression)) - {"teacher_id"}


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (v["definition"] for v in dashboard()["templating"]["list"] if "definition" in v)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str, cwd: Path = FOLDER) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_names_are_those_of_a_scrape():
    assert {
        "teacher_items_total",
        "teacher_build_info",
        "teacher_item_seconds_bucket",
    } <= exported()
    assert {"teacher_prefix_tokens_total", "process_resident_memory_bytes"} <= exported()
    assert "teacher_items" not in exported()


def test_every_yaml_file_is_yaml():
    files = sorted(FOLDER.rglob("*.yml"))
    assert len(files) == 6
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_the_dashboard_asks_for_what_there_is():
    expressions = list(dashboard_expressions())
    assert len(expressions) > 20
    for expression in expressions:
        assert asked_for(expression), expression
        assert asked_for(expression) <= exported(), expression


def test_everything_exported_can_be_seen():
    shown = set().union(*(asked_for(expression) for expression in dashboard_expressions()))
    for family in Metrics().registry.collect():
        if family.name.startswith("teacher_"):
            suffixes = SUFFIXES.get(family.type, [""])
            assert shown & {family.name + suffix for suffix in suffixes}, family.name


def test_every_panel_says_what_it_shows():
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles)) > 20
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["expr"] for target in panel["targets"])


def test_panels_do_not_overlap():
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_rules_ask_for_what_there_is():
    assert len(rules()) >= 6
    for rule in rules():
        assert asked_for(rule["expr"]) <= exported(), rule["alert"]
        assert asked_for(rule["expr"]) or "up{" in rule["expr"]


def test_every_alert_has_a_mend_and_a_test():
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    tests = (FOLDER / "alerts_test.yml").read_text()
    for rule in rules():
        name = rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"{OPERATIONS}#{name.lower()}"
        assert name in headings
        assert name in tests


def test_every_number_is_explained():
    text = OPERATIONS.read_text()
    for family in Metrics().registry.collect():
        if family.name.startswith("teacher_"):
            name = family.name + SUFFIXES.get(family.type, [""])[0].removesuffix("_bucket")
            assert f"`{name}`" in text, name


def test_a_wrong_name_would_be_noticed():
    assert not asked_for("rate(teacher_item_total[5m])") <= exported()
    assert not asked_for("teacher_queue_wait_seconds") <= exported()


@pytest.mark.parametrize("name", CONFIGURATIONS)
@needs_promtool
def test_promtool_takes_the_configuration(name: str):
    promtool("check", "config", "--syntax-only", name)


def test_tls_changes_only_how_the_teacher_is_asked():
    plain, tls = (yaml.safe_load((FOLDER / name).read_text()) for name in CONFIGURATIONS)
    (over_http,), (over_tls,) = plain.pop("scrape_configs"), tls.pop("scrape_configs")
    assert plain == tls
    assert (over_tls["scheme"], over_tls["tls_config"]["ca_file"]) == ("https", "ca.pem")
    for name in ("job_name", "authorization", "static_configs"):
        assert over_http[name] == over_tls[name]


@needs_promtool
def test_alerts_fire_when_they_should():
    promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_promtool_takes_the_dashboard(tmp_path: Path):
    expressions = [e for e in dashboard_expressions() if not e.startswith("label_values(")]
    recorded = [
        {
            "record": f"panel:{i}",
            "expr": e.replace("$__rate_interval", "5m").replace("$instance", ".*"),
        }
        for i, e in enumerate(expressions)
    ]
    groups = {"groups": [{"name": "dashboard", "rules": recorded}]}
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump(groups))
    promtool("check", "rules", "dashboard.yml", cwd=tmp_path)
