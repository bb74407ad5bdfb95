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
    """Until the first epoch is in the file, while the second is being answered."""
    wait_for(path, process)
    while AnswersFile(path).epochs == 0:
        assert process.poll() is None, process.communicate()


def test_only_classifiers_have_teachers(capsys):
    said = complaint(script("teach"), ["quickstart/segmentation_digits"], capsys)
    assert said == "quickstart/segmentation_digits: teachers are for classification, not for segmentation"


def test_a_recipe_without_a_teacher(capsys, tmp_path):
    said = complaint(script("teach"), ["quickstart/digits", "--output", str(tmp_path / "answers")], capsys)
    assert said == "distillation.teacher is missing: take a recipe with one, as classification/fastvit_t8_distill"


def test_the_answers_for_a_run_in_this_folder_are_beside_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setattr("fastvit.tasks.classification.teach.teach", lambda *_, **__: None)
    script("teach")(["quickstart/digits", "output=."])
    assert capsys.readouterr().out == f"train with distillation.answers={tmp_path / 'mine.answers'}\n"


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained SA12 as an override, and the file of its answers, which were recorded with a kill in the middle."""
    folder = tmp_path_factory.mktemp("teacher")
    finish(start(folder / "sa12", "model.name=fastvit_sa12"))
    teacher = f"distillation={{teacher: {{name: fastvit_sa12, checkpoint: {folder / 'sa12' / 'best.pt'}}}}}"
    arguments = ("quickstart/digits", *QUICK, MIXED, teacher, "--output", str(folder / "answers"))
    process = start_script("teach", *arguments)
    wait_for_epoch(folder / "answers", process)
    kill(process)
    finish(start_script("teach", *arguments))
    return teacher, folder / "answers"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("student", ["fastvit_t8", "fastvit_t12"])
def test_students_learn_from_stored_answers_what_they_learn_live(student, taught, tmp_path):
    """Bit for bit, after a kill in the middle of training, too."""
    teacher, answers = taught
    finish(start(tmp_path / "live", f"model.name={student}", MIXED, teacher))
    process = start(tmp_path / "stored", f"model.name={student}", MIXED, f"distillation={{answers: {answers}}}")
    wait_for(tmp_path / "stored" / "previous.pt", process)
    kill(process)
    finish(start(tmp_path / "stored", resume=True))
    assert_same_end(tmp_path / "stored", tmp_path / "live")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_record_and_learn_what_one_does(taught, tmp_path):
    """One has the halves of each step one after the other, two have them at the same time."""
    teacher, _ = taught
    arguments = ("quickstart/digits", *QUICK, MIXED, teacher, "--output")
    finish(start_script("teach", *arguments, str(tmp_path / "one"), "loop.accumulation=2"))
    finish(*(start_script("teach", *arguments, str(tmp_path / "two"), variables=rank) for rank in two_ranks()))
    assert (tmp_path / "two").read_bytes() == (tmp_path / "one").read_bytes()
    for name, hints in (("live", teacher), ("stored", f"distillation={{answers: {tmp_path / 'one'}}}")):
        finish(*start_two(tmp_path / name, "model.name=test_byobnet", MIXED, hints))
    assert_same_end(tmp_path / "stored", tmp_path / "live")
