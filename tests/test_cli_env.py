"""What `fastvit env` says for a bug report."""

import platform
from importlib.metadata import metadata, version

from fastvit.cli.main import main


def test_it_tells_versions_and_every_extra(capsys):
    main(["env"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["python"] == platform.python_version()
    for package in ("torch", "pydantic", "pytest"):
        assert rows[package].split("+")[0] == version(package).split("+")[0]
    assert {name.strip("[]") for name in rows if name.startswith("[")} == set(
        metadata("fastvit").get_all("Provides-Extra")
    )
    assert rows["[train]"] == "complete"


def test_it_tells_what_an_extra_lacks(monkeypatch, capsys):
    monkeypatch.setattr("fastvit.runtime.environment.installed", lambda package: "" if package == "tqdm" else "1.0")
    main(["env"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["[train]"] == "lacks tqdm"
    assert rows["[coreml]"] == "complete"
