"""Files for operators beside the code: dashboard and runbook name what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_dashboard_asks_for_metrics_that_there_are() -> None:
    documented = set(re.findall(r"`(quel_\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    asked = {
        name.removesuffix("_bucket")
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"quel_\w+", target["expr"])
    }
    assert asked <= documented
    assert len(asked) >= 12
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_runbook_has_an_entry_for_every_alert_and_no_other() -> None:
    alerts = re.findall(r"- alert: (\w+)", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"))
    entries = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries == alerts
