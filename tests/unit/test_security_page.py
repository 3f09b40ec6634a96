"""docs/security.md names a test for each of its lines: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ovnagent.config import file as config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"def (test_\w+)\(", text)}
    assert not named - there


def test_every_line_about_a_tenant_names_one() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count(" | ") == 2]
    claims = [line for line in lines if line.split(" | ")[2] not in ("shown by |", "must be trusted with |")]
    without = [line for line in claims if "`test_" not in line]
    assert len(claims) > 30
    assert [line.split(" | ")[0][2:].partition(" (")[0] for line in without] == PARTIES


PARTIES = ["tenant", "owner of a NAD", "node", "reader of /metrics", "who may write to NB", "operator"]
"""The first table's lines."""


def test_the_recommended_network_is_a_configuration(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    whole = {
        "cluster": "c",
        "ovn": {"northbound": ["unix:/nb"], "southbound": ["unix:/sb"]},
        **yaml.safe_load(block),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(whole))
    (network,) = config.load(path).networks.all
    assert network.name == "shared"
