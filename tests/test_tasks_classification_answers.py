"""Stored answers that do not fit a recipe, its images or the disk."""

import json
import resource
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fastvit.data.images import TransformedImages
from fastvit.errors import RecipeError, RunError
from fastvit.tasks import make_task
from fastvit.tasks.classification import fingerprint
from fastvit.tasks.classification.answers import CRC_BYTES, DIGEST_BYTES, AnswersFile, Epoch, Header
from fastvit.tasks.classification.teach import teach
from fastvit.training.engine import Trainer
from fastvit.training.loaders import StreamLoader
from teaching import EPOCHS, TEACHER, recipe_of, start_training, taught


@pytest.fixture
def recipe(digits_and_teacher: Path, tmp_path: Path):
    """A function from overrides to a recipe with a live teacher."""
    return partial(recipe_of, digits_and_teacher, tmp_path / "run")


READ = TransformedImages.__getitem__  # before a test puts another in its place


def brighter(self: TransformedImages, index: int):
    """As another version of a library might read images, every second one."""
    image, label = READ(self, index)
    return image + index % 2, label


@pytest.fixture
def answers(recipe, tmp_path: Path) -> Path:
    return teach(make_task(recipe()), tmp_path / "answers").path


def test_what_the_images_do_not_depend_on_may_differ(recipe, answers: Path):
    changes = ("model.drop_path_rate=0.1", "augmentation.smoothing=0.2", "loop.precision=bfloat16", "optimizer.lr=1e-3")
    start_training(taught(recipe, answers, *changes))
    start_training(recipe(f"distillation.answers={answers}"))  # the teacher is named, too


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        (("seed=1",), "seed: 0 -> 1"),
        (("augmentation.mixup=0.2",), "augmentation.mixup: 0.8 -> 0.2"),
        (("data.image_size=64",), "data.image_size: 32 -> 64"),
        (("data.interpolation=nearest",), "data.interpolation: bicubic -> nearest"),
        (("loop.batch_size=12",), "loop.batch_size: 24 -> 12"),
        (("loop.accumulation=2",), r"loop.batch_size / \(processes \* loop.accumulation\): 24 -> 12"),
    ],
)
def test_answers_for_another_recipe_name_what_differs(changes, different: str, recipe, answers: Path):
    with pytest.raises(RunError, match=f"answers for another recipe; these differ: .*{different}"):
        start_training(taught(recipe, answers, *changes))
    with pytest.raises(RunError, match=f"answers for another recipe; these differ: .*{different}"):
        teach(make_task(recipe(*changes)), answers)


def test_accumulation_may_differ_where_nothing_is_mixed_or_erased(recipe, tmp_path: Path):
    plain = "augmentation={auto_augment: rand-m9-mstd0.5-inc1}"
    path = teach(make_task(recipe(plain)), tmp_path / "answers").path
    start_training(taught(recipe, path, plain, "loop.accumulation=2"))


def test_answers_are_the_same_whether_or_not_a_recipe_names_the_class_folders(recipe, answers: Path):
    counted = taught(recipe, answers, "data.num_classes=null").completed()
    assert counted.data.classes == tuple("0123456789")
    start_training(counted)


def test_answers_of_another_teacher(recipe, answers: Path, digits_and_teacher: Path, tmp_path: Path):
    other = tmp_path / "other.pt"
    torch.save({name: 2 * tensor for name, tensor in torch.load(digits_and_teacher / TEACHER).items()}, other)
    with pytest.raises(RunError, match=r"these differ: distillation.teacher's weights: sha256 .* -> sha256"):
        start_training(recipe(f"distillation.answers={answers}", f"distillation.teacher.checkpoint={other}"))


def test_answers_of_fewer_epochs(recipe, answers: Path):
    with pytest.raises(RunError, match="has answers to 2 epochs, but the recipe is of 5: run `fastvit teach` again"):
        start_training(taught(recipe, answers, "schedule.epochs=5"))


def test_a_changed_library_is_noticed_by_the_images(recipe, answers: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TransformedImages, "__getitem__", brighter)
    stored = taught(recipe, answers)
    trainer = Trainer(make_task(stored), stored, None)
    with pytest.raises(RunError, match=r"the images of epoch 1 are not those .*: the files in data.root are others"):
        list(trainer.task.training_batches(trainer.batches, 0, 0))
    monkeypatch.setattr(fingerprint.timm, "__version__", "9.9")
    with pytest.raises(RunError, match=r"made with other versions \(timm: .* -> 9.9\)"):
        list(trainer.task.training_batches(trainer.batches, 0, 0))


def test_other_libraries_go_on_where_they_make_the_same_images(recipe, tmp_path: Path, monkeypatch):
    """Students would find out in the first epoch of the other kind, days later."""
    path = teach(make_task(recipe("schedule.epochs=1", "schedule.warmup_epochs=0")), tmp_path / "answers").path
    monkeypatch.setattr(fingerprint.timm, "__version__", "9.9")
    with monkeypatch.context() as patch:
        patch.setattr(TransformedImages, "__getitem__", brighter)
        with pytest.raises(RunError, match=r"the images of epoch 1 are not those .* \(timm: .* -> 9\.9\); go on with"):
            teach(make_task(recipe()), path)
        assert AnswersFile(path).epochs == 1
    assert teach(make_task(recipe()), path).epochs == EPOCHS


def test_a_folder_s_mean_and_std_belong_to_the_teacher(recipe, digits_and_teacher: Path, tmp_path: Path):
    """An early file, which does not say them, is gone on with and learned from."""
    model = timm.create_model("test_byobnet", num_classes=10)
    model.load_state_dict(torch.load(digits_and_teacher / TEACHER))
    folder = tmp_path / "teacher"
    timm.models.save_for_hf(model, folder)
    own = partial(recipe, f"distillation={{teacher: {{name: 'local-dir:{folder}'}}}}")
    file = teach(make_task(own("schedule.epochs=1", "schedule.warmup_epochs=0")), tmp_path / "answers")
    said = {key: value for key, value in file.header.teacher.items() if "mean" not in key}
    assert len(said) == len(file.header.teacher) - 1
    early = AnswersFile.create(tmp_path / "early", replace(file.header, teacher=said))
    early.append(0, file.read(0))
    assert teach(make_task(own()), early.path).epochs == EPOCHS
    start_training(own(f"distillation.answers={early.path}"))

    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"differ: distillation\.teacher's mean and std: .* -> \[\[0\.1, 0\.2, 0\.3\]"):
        teach(make_task(own()), file.path)
    with pytest.raises(RunError, match=r"differ: distillation\.teacher's mean and std: "):
        start_training(own(f"distillation.answers={file.path}"))


def test_changed_mixing_or_erasing_is_noticed(recipe, answers: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.data.random_erasing._get_pixels", lambda *arguments, **options: torch.ones(()))
    with pytest.raises(RunError, match="these differ: mixing and erasing by the libraries and the device"):
        start_training(taught(recipe, answers))


def test_a_truncated_a_damaged_and_a_foreign_file(recipe, answers: Path, tmp_path: Path):
    content = answers.read_bytes()
    answers.write_bytes(content[:-1])
    with pytest.raises(RunError, match="has answers to 1 epochs and is truncated in the next, but the recipe is of 2"):
        start_training(taught(recipe, answers))
    file = AnswersFile(answers)
    damaged = bytearray(content)
    damaged[file.start] ^= 1
    answers.write_bytes(damaged)
    with pytest.raises(RunError, match="is damaged: the answers of epoch 1 are not those that were written"):
        start_training(taught(recipe, answers))
    answers.write_bytes(content[: file.start - 10])
    with pytest.raises(RunError, match="its header cannot be read"):
        start_training(taught(recipe, answers))
    answers.write_bytes(b"something else")
    with pytest.raises(RunError, match="is not a file that `fastvit teach` has written"):
        start_training(taught(recipe, answers))
    with pytest.raises(RunError, match=r"the answers .*nowhere cannot be read \(No such file"):
        start_training(taught(recipe, tmp_path / "nowhere"))


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(recipe, tmp_path: Path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(RunError, match=r"has room for 100 bytes, but [\d,]+ are needed: make room"):
        teach(make_task(recipe()), tmp_path / "answers")
    assert not (tmp_path / "answers").exists()


def test_a_place_that_cannot_be_written(recipe, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/answers cannot be written \("):
        teach(make_task(recipe()), tmp_path / "file" / "answers")


def test_a_disk_that_fills_up_costs_one_epoch(recipe, tmp_path: Path):
    path = tmp_path / "answers"
    file = teach(make_task(recipe("schedule.epochs=1", "schedule.warmup_epochs=0")), path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.size_with(1) + 10, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot be written .*; what was there before is whole"):
            file.append(1, file.read(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (file.epochs, file.is_truncated) == (1, True)
    assert teach(make_task(recipe()), path).epochs == EPOCHS


def test_two_recordings_into_one_file_do_not_displace_each_other_s_epochs(tmp_path: Path):
    """Both have computed the first epoch. Students would find another's answers in place of the second, days later."""
    said = {"images": {}, "teacher": {}, "temperature": 1.0, "num_classes": 10, "made_with": {}}
    one = AnswersFile.create(tmp_path / "answers", Header(kind="hard", classes=1, epoch_images=4, **said))
    other = AnswersFile(one.path)
    epoch = Epoch(np.zeros(4, one.header.dtype), [bytes(DIGEST_BYTES)] * len(one.header.checked))
    one.append(0, epoch)
    with pytest.raises(RunError, match="has 1 epochs, where it had 0: another `fastvit teach` writes into it, too"):
        other.append(0, epoch)
    assert (other.epochs, other.is_truncated) == (1, False)


def test_a_stream_cannot_be_repeated(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stream = StreamLoader.__new__(StreamLoader)
    monkeypatch.setattr("fastvit.tasks.classification.teach.loader_of", lambda *_: stream)
    with pytest.raises(RecipeError, match="is a stream, whose order depends on the workers, so that it cannot be rep"):
        teach(make_task(recipe()), tmp_path / "answers")


def test_there_must_be_a_teacher_to_ask(recipe, tmp_path: Path):
    for without in ("distillation=null", "distillation={answers: some.answers}"):
        with pytest.raises(RecipeError, match=r"distillation\.teacher is missing"):
            teach(make_task(recipe(without)), tmp_path / "answers")
    with pytest.raises(RecipeError, match="distillation: give a teacher, or the answers of one"):
        recipe("distillation={alpha: 0.5}")


# ---- size ------------------------------------------------------------------------------------------------------------


def test_hard_answers_take_two_bytes_an_image_and_soft_ones_forty():
    imagenet = {"images": {}, "teacher": {}, "temperature": 1.0, "num_classes": 1000, "made_with": {}}
    hard = Header(kind="hard", classes=1, epoch_images=1281024, **imagenet)
    soft = Header(kind="soft", classes=10, epoch_images=1281024, **imagenet)
    assert hard.record_bytes == 1281024 * 2 + 32 * 8 + CRC_BYTES
    assert soft.dtype.itemsize == 40
    assert 0.7e9 < 300 * hard.record_bytes < 0.8e9
