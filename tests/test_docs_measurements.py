"""What the pages say was measured is what was measured: tables follow from samples, and pages copy tables."""

import json
import re
from importlib import import_module

from fastvit.benchmark.report import report
from fastvit.benchmark.result import load
from launch import ROOT


def test_published_tables_follow_from_the_published_samples():
    raw = sorted((ROOT / "docs" / "measurements").glob("*.json"))
    assert raw
    for path in raw:
        table = path.with_suffix(".md")
        content = json.loads(path.read_text(encoding="utf-8"))
        if kind := content["suite"].get("measures"):
            made_again = import_module(f"fastvit.benchmark.{kind}").table(content)
            assert table.read_text(encoding="utf-8") == f"# {content['suite']['title']}\n\n{made_again}\n", path
            continue
        made = load(path)
        assert made.complete, path
        assert table.read_text(encoding="utf-8") == report(made), f"{path}: make the table again, do not edit it"
        shares = re.findall(r"\| +(\d+)%(?: memory)? +\|", table.read_text(encoding="utf-8"))
        assert all(int(share) <= 100 for share in shares), f"{path}: faster than this machine can be"
        assert "/" not in str(made.suite.output).removeprefix("runs/benchmark/"), f"{path} names a folder of a machine"


def test_tables_of_the_pages_are_those_of_the_measurements():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    copied = re.findall(r"^`measurements/(\S+)`:\n\n((?:\|.*\n)+)", pages, re.MULTILINE)
    assert {name for name, _ in copied} > {"deploy.md", "peers_eager.md", "ablation.md", "encoders.md"}
    assert len(copied) == pages.count("`measurements/")
    for name, table in copied:
        measured = (ROOT / "docs" / "measurements" / name).read_text(encoding="utf-8")
        assert f"\n\n{table}\n" in f"{measured}\n", f"a table is not the one of {name}: copy it again, do not edit it"
