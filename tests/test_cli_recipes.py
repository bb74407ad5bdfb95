"""The recipes that come with the package: listed, found by name from anywhere, copied."""

import pytest

from fastvit import shipped
from fastvit.cli.main import main
from fastvit.tasks import load_recipe
from launch import complaint, script


def test_the_list_names_every_recipe_with_its_title(capsys):
    main(["recipes"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(shipped.names())
    assert lines["quickstart/digits"].startswith("The quickstart: FastViT-T8 on the 1,797 real handwritten digits")
    assert not any(name.startswith("base/") for name in lines)


def test_a_copy_is_the_same_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", "classification/fastvit_t8_distill"])
    main(["recipes", "copy", "classification/fastvit_t8_distill", "other.yaml"])
    for name in ("fastvit_t8_distill.yaml", "other.yaml"):
        assert load_recipe(name) == load_recipe("classification/fastvit_t8_distill")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copy"], "copy what?"),
        (["copy", "classification/finetun"], "did you mean classification/finetune?"),
        (["copy", "base/imagenet"], "no recipe of the package is called base/imagenet"),
        (["copy", "classification/finetune", "mine.yaml"], "mine.yaml exists already"),
        (["copy", "classification/finetune", "nowhere/mine.yaml"], "cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_copied(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("mine")
    assert message in complaint(script("recipes"), arguments, capsys)
    assert (tmp_path / "mine.yaml").read_text() == "mine"
