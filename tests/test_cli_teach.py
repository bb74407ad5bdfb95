"""`fastvit teach` and training from what it writes, as a user would, on the digits."""

import pytest

from fastvit.tasks.classification.answers import AnswersFile
from launch import (
    QUICK,
    assert_same_end,
    complaint,
    finish,
    script,
    start,
    start_script,
    start_two,
    two_ranks,
    wait_for,
)

MIXED = "augmentation={mixup: 0.2, cutmix: 1.0, reprob: 0.25, hflip: 0.0, smoothing: 0.1}"


def kill(process):
    process.kill()
    process.communicate()


def wait_for_epoch(path, process):
    """Until the first epoch is in the file, and the second is being answered."""
    wait_for(path, process)
    while AnswersFile(path).epochs == 0:
        assert process.poll() is None, process.communicate()


def test_only_classifiers_have_teachers(capsys):
    said = complaint(script("teach"), ["quickstart/segmentation_digits"], capsys)
    assert said == "quickstart/segmentation_digits: teachers are for classification, not for segmentation"


def test_a_recipe_without_a_teacher(capsys, tmp_path):
    said = complaint(script("teach"), ["quickstart/digits", "--output", str(tmp_path / "answers")], capsys)
    assert said == "distillation.teacher is missing: whose answers are to be written?"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained SA12, and the answers that it gave, after a kill in the middle: (overrides for live, for stored)."""
    folder = tmp_path_factory.mktemp("teacher")
    finish(start(folder / "sa12", "model.name=fastvit_sa12"))
    teacher = f"distillation={{teacher: {{name: fastvit_sa12, checkpoint: {folder / 'sa12' / 'best.pt'}}}}}"
    arguments = ("quickstart/digits", *QUICK, MIXED, teacher, "--output", str(folder / "answers"))
    process = start_script("teach", *arguments)
    wait_for_epoch(folder / "answers", process)
    kill(process)
    finish(start_script("teach", *arguments))
    # Two processes that each have half of the images are as one that has them one after the other.
    halves = (*arguments[:-1], str(folder / "halves"))
    finish(start_script("teach", *halves, "loop.accumulation=2"))
    finish(*(start_script("teach", *halves[:-1], str(folder / "two"), variables=rank) for rank in two_ranks()))
    assert (folder / "two").read_bytes() == (folder / "halves").read_bytes()
    return (MIXED, teacher), (MIXED, f"distillation={{answers: {folder / 'answers'}}}"), folder


@pytest.mark.slow
@pytest.mark.parametrize("student", ["fastvit_t8", "fastvit_t12"])
def test_students_learn_from_stored_answers_what_they_learn_live(student, taught, tmp_path):
    """Bit for bit, after a kill in the middle of training, too."""
    live, stored, _ = taught
    finish(start(tmp_path / "live", f"model.name={student}", *live))
    process = start(tmp_path / "stored", f"model.name={student}", *stored)
    wait_for(tmp_path / "stored" / "previous.pt", process)
    kill(process)
    finish(start(tmp_path / "stored", resume=True))
    assert_same_end(tmp_path / "stored", tmp_path / "live")


@pytest.mark.slow
def test_two_processes_learn_from_stored_answers_what_they_learn_live(taught, tmp_path):
    live, _, folder = taught
    stored = (MIXED, f"distillation={{answers: {folder / 'two'}}}")
    for name, overrides in (("live", live), ("stored", stored)):
        finish(*start_two(tmp_path / name, "model.name=test_byobnet", *overrides))
    assert_same_end(tmp_path / "stored", tmp_path / "live")
