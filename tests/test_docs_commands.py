"""Every command line that the documentation, the recipes and the help of the commands show is understood."""

import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from fastvit import shipped
from fastvit.cli.main import COMMANDS, EXAMPLE, parse
from fastvit.tasks import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "tutorials").glob("*.md")]
RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def blocks(text):
    """The lines of the blocks for a shell, on a page."""
    return "\n".join(re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE))


def header(text):
    """The indented lines of the comment that a recipe begins with."""
    comment = re.match(r"(?:#.*\n)*", text)[0]
    return "\n".join(re.findall(r"^# {2,}(.*)", comment, re.MULTILINE))


def commands(text):
    """The arguments of `fastvit`, or of a script, in each line: after a launcher or a path, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" (?:&&|\|) ", line) if re.search(r"\bfastvit |scripts/", line) else ():
            words = shlex.split(part, comments=True)
            for position, word in enumerate(words):
                following = words[position + 1 :]
                if Path(word).name == "fastvit" and following:
                    yield following
                elif re.fullmatch(r"scripts/\w+\.py", word):
                    yield [Path(word).stem, *following]


def fragments():
    """(page, arguments) of what stands as code within sentences, often without what comes before or after."""
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", prose):
            if re.match(r"(\S+ -m )?fastvit [a-z]|torchrun ", code):
                yield from ((page.name, words) for words in commands(" ".join(code.split())))


def shown():
    """(where, arguments) of all whole command lines."""
    yield "fastvit --help", *commands(EXAMPLE)
    for page in PAGES:
        yield from ((page.name, words) for words in commands(blocks(page.read_text())))
    for recipe in RECIPES:
        yield from ((str(recipe.relative_to(ROOT)), words) for words in commands(header(recipe.read_text())))
    for name in COMMANDS:
        examples = re.findall(r"^(?:fastvit|torchrun) .*", importlib.import_module(f"fastvit.cli.{name}").__doc__, re.M)
        yield from ((f"fastvit {name} --help", words) for words in commands("\n".join(examples)))


def test_every_command_that_is_shown_is_understood(capsys):
    """Also the recipe that it names exists, and has the keys that it sets."""
    lines = list(shown())
    assert {place for place, _ in lines} > {"README.md", "recipes.md", "web.md", "configs/quickstart/digits.yaml"}
    assert {words[0] for _, words in lines} == set(COMMANDS)
    for place, words in lines:
        try:
            arguments = parse(words)
        except SystemExit:
            pytest.fail(f"{place}: fastvit {' '.join(words)}: {capsys.readouterr().err}")
        for source in (getattr(arguments, name, None) for name in ("recipe", "source", "suite")):
            if re.fullmatch(r"\w+/\w+", source or "") and (ROOT / "configs" / source).parent.is_dir():
                assert shipped.find(source).is_file(), f"{place}: there is no {source}"
                if arguments.command in ("train", "teach") and arguments.overrides:
                    load_recipe(source, arguments.overrides)


def test_commands_within_sentences_have_the_options_that_they_name(capsys):
    lines = list(fragments())
    assert len(lines) > 20
    for place, (name, *words) in lines:
        with pytest.raises(SystemExit):
            parse([name, "--help"])
        known = re.findall(r"--[\w-]+", capsys.readouterr().out)
        unknown = {word for word in words if word.startswith("--")} - set(known)
        assert known, f"{place}: there is no fastvit {name}"
        assert not unknown, f"{place}: fastvit {name} has no {unknown}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_its_command(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: fastvit {path.stem} ")
