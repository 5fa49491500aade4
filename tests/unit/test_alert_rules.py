"""The alert rules are rules, fire when they shall, name metrics that exist and have a runbook each."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pinstream import metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules/pinstream.yml"
TESTS = ROOT / "deploy/prometheus/tests/pinstream.yml"
TEXT = RULES.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [("check", "rules", str(RULES)), ("test", "rules", str(TESTS))])
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_name_metrics_that_exist() -> None:
    assert metrics.RECALL_AT_K  # registers all of them
    known = set()
    for family in REGISTRY.collect():
        known |= {family.name, f"{family.name}_total", f"{family.name}_count", f"{family.name}_sum"}
    named = set(re.findall(r"\bpinstream_[a-z_]+", TEXT))
    assert named and not named - known


def test_every_alert_has_a_runbook() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    alerts = re.findall(r"alert: (\w+)", TEXT)
    assert alerts
    for alert in alerts:
        assert f"runbook: docs/operations.md#{alert.lower()}" in TEXT
        assert re.search(rf"^#+ {alert}$", operations, re.MULTILINE), f"docs/operations.md has no heading {alert}"
