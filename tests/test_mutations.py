"""The mistakes of `mutations.py` fit the code and the tests as they are, and a sample of them is seen."""

import ast
import random
from datetime import date

import pytest

from mutations import MUTATIONS, ROOT, judge


def test_every_row_changes_a_line_that_is_there():
    for mutation in MUTATIONS:
        mutation.broken()  # raises where the text is not there once
        assert mutation.old != mutation.new
    assert len({(each.file, each.old, each.new) for each in MUTATIONS}) == len(MUTATIONS), "each mistake once"


def test_every_row_names_a_test_that_is_there():
    named = {mutation.test.partition("[")[0] for mutation in MUTATIONS}
    there = {
        f"{file}::{node.name}"
        for file in {test.partition("::")[0] for test in named}
        for node in ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named <= there, named - there


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sample_is_seen():
    """Another one each day; before a release, all of them by `python tests/mutations.py`."""
    sample = random.Random(str(date.today())).sample(MUTATIONS, 8)
    assert not [str(mutation) for mutation, seen in judge(sample) if not seen]
