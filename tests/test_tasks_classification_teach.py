"""A teacher's answers, written once: training from them is training with the teacher."""

import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import to_tensor
from tqdm import tqdm

from fastvit.data.digits import Digits
from fastvit.data.images import TransformedImages
from fastvit.errors import RecipeError, RunError, RunStopped
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.runtime.signals import StopSignals
from fastvit.tasks import load_recipe, make_task
from fastvit.tasks.classification import fingerprint
from fastvit.tasks.classification.answers import CRC_BYTES, AnswersFile, Epoch, Header
from fastvit.tasks.classification.distillation import spread, stored_targets
from fastvit.tasks.classification.teach import Recording, teach
from fastvit.training.engine import Trainer, train
from fastvit.training.learner import Learner
from fastvit.training.loaders import StreamLoader, loader_of
from reference import randomize

CPU = torch.device("cpu")
IMAGES, BATCH, EPOCHS = 74, 24, 2  # three steps in an epoch, and two images left
AUGMENTATION = "mixup: 0.8, cutmix: 1.0, reprob: 0.5, auto_augment: rand-m9-mstd0.5-inc1, smoothing: 0.1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits as files."""
    root = tmp_path_factory.mktemp("digits")
    for split, count in (("train", IMAGES), ("val", 50)):
        digits = Digits(train=split == "train", image_size=40)
        for index in range(count):
            image, label = digits[index]
            (root / split / str(label)).mkdir(parents=True, exist_ok=True)
            image.save(root / split / str(label) / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose answers differ from image to image: random, but no class is favoured."""
    model = timm.create_model("test_byobnet", num_classes=10).eval()
    randomize(model)
    with torch.no_grad():
        classifier = model.get_classifier()
        classifier.bias.zero_()
        digits = torch.stack([to_tensor(image) for image in Digits(train=False, image_size=32).images[:100]])
        logits = model(3 * digits - 2)
        classifier.bias.copy_(-logits.mean(0))
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def recipe(root: Path, checkpoint: Path, tmp_path: Path):
    """A function from overrides to a recipe with a live teacher."""

    def recipe(*overrides: str):
        settings = (
            f"output={tmp_path / 'run'}",
            f"data={{dataset: folder, root: {root}, num_classes: 10, image_size: 32, workers: 0}}",
            f"augmentation={{{AUGMENTATION}}}",
            f"distillation={{teacher: {{name: test_byobnet, checkpoint: {checkpoint}}}}}",
            f"loop={{batch_size: {BATCH}}}",
            f"schedule={{epochs: {EPOCHS}}}",
            "model={name: test_byobnet}",
        )
        return load_recipe("quickstart/digits", [*settings, *overrides])

    return recipe


def taught(recipe, path: Path, *overrides: str):
    """The same recipe, which reads the answers of a file."""
    return recipe(f"distillation.answers={path}", "distillation.teacher=null", *overrides)


def run(recipe, name: str) -> Trainer:
    recipe = load_recipe(recipe.to_dict(), [f"output={recipe.output.with_name(name)}"])
    return train(make_task(recipe), recipe)


def assert_same_end(actual: Trainer, expected: Trainer) -> None:
    for key in ("state_dict", "state_dict_ema", "optimizer"):
        torch.testing.assert_close(actual.state()[key], expected.state()[key], rtol=0, atol=0, msg=key)
    losses = [[row[name] for name in row if name.startswith("train_")] for row in actual.history]
    assert losses == [[row[name] for name in row if name.startswith("train_")] for row in expected.history]


def test_training_from_stored_answers_is_training_with_the_teacher(recipe, tmp_path: Path):
    """Bit for bit, with mixing, erasing, accumulation, and an interruption in the middle of an epoch."""
    live = recipe("loop.accumulation=2")
    expected = run(live, "live")
    teach(make_task(live), tmp_path / "answers")
    stored = taught(recipe, tmp_path / "answers", "loop.accumulation=2", "loop.checkpoint_steps=1")

    step = Learner.step

    def interrupted(self: Learner, number: int, *arguments, **options):
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(stored, "run")
    resumed = train(make_task(stored), stored, resume_from=stored.output / "last.pt")
    assert_same_end(resumed, expected)
    other = run(recipe("loop.accumulation=2", "distillation.alpha=0.4"), "other")
    with pytest.raises(AssertionError):
        assert_same_end(other, expected)


def record(task, epoch: int, *, count: int = 1) -> Epoch:
    """An epoch of answers by several processes, one after the other."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "largest", lambda self, *numbers: list(numbers))
        patch.setattr(Processes, "gather", lambda self, value: said.append(value) or [value])
        patch.setattr(Recording, "_joined", lambda self, parts: None)
        for rank in range(count):
            recording = recording_of(task, Processes(rank, count))
            recording._epoch(epoch, StopSignals(), tqdm(disable=True))
    return recording._joined(said)


def recording_of(task, processes: Processes = ALONE) -> Recording:
    return Recording(task, loader_of(task, task.open_data("train"), processes), processes)


def test_processes_and_accumulated_parts_see_the_same_images(recipe):
    one = record(make_task(recipe("loop.accumulation=2")), 1)
    two = record(make_task(recipe()), 1, count=2)
    assert np.array_equal(one.answers, two.answers)
    assert one.digests == two.digests
    assert len(np.unique(one.answers["classes"])) > 1  # else any order would do
    whole = record(make_task(recipe()), 1)
    assert not np.array_equal(one.answers, whole.answers)  # other pairs are mixed
    assert one.digests == whole.digests  # of the same images


def test_a_recording_goes_on_after_the_last_whole_epoch(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, task = tmp_path / "answers", make_task(recipe())
    whole = teach(task, tmp_path / "whole")
    epoch = Recording._epoch

    def stopped(self: Recording, number: int, *arguments):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            teach(task, path)
    with path.open("ab") as file:
        file.write(b"half a record")  # a kill while writing
    assert teach(task, path).epochs == EPOCHS
    assert path.read_bytes() == whole.path.read_bytes()
    assert len(path.read_bytes()) == whole.size_with(EPOCHS)
    longer = teach(make_task(recipe("schedule.epochs=3")), path)
    assert longer.epochs == 3
    assert path.read_bytes().startswith(whole.path.read_bytes())


def test_a_signal_ends_a_recording_with_the_step(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Processes, "largest", lambda self, *numbers: [15])
    with pytest.raises(RunStopped, match="stopped in epoch 1; the same command goes on"):
        teach(make_task(recipe()), tmp_path / "answers")


# ---- soft answers ----------------------------------------------------------------------------------------------------


def test_soft_answers_are_within_their_rounding(recipe, tmp_path: Path):
    """All ten classes are kept: half precision is all that is lost, one part in 2048."""
    soft = ("distillation.kind=soft", "distillation.temperature=2.0")
    task = make_task(recipe(*soft))
    file = teach(task, tmp_path / "answers")
    loader = recording_of(task).loader
    student = make_task(taught(recipe, file.path, *soft))
    student.prepare_training(CPU, student.open_data("train"), loader)
    teacher = task.build_teacher(CPU)
    for step, (images, labels, stored) in enumerate(student.training_batches(loader, 0, 0)):
        seed_everything(student.recipe.seed, Purpose.STEP, step, 0)
        seen, _ = student.augment(images, labels)
        expected = F.softmax(teacher(seen) / 2, dim=1)
        targets = stored_targets(student.recipe.distillation, stored, 10)
        torch.testing.assert_close(targets, expected, rtol=1.5 / 2048, atol=1e-7)
    assert step == 2


def test_what_is_not_stored_is_spread_evenly():
    probabilities = torch.softmax(3 * torch.randn(5, 100), dim=1)
    largest, classes = probabilities.topk(10)
    whole = spread(classes, largest, 100)
    torch.testing.assert_close(whole.sum(1), torch.ones(5))
    torch.testing.assert_close(whole.gather(1, classes), largest)
    others = whole.scatter(1, classes, torch.nan)
    rest = (1 - largest.sum(1)) / 90
    for row, expected in zip(others, rest, strict=True):
        torch.testing.assert_close(row[~row.isnan()], expected.expand(90))


def test_soft_answers_serve_for_hard_ones(recipe, tmp_path: Path):
    hard = record(make_task(recipe()), 0)
    soft = record(make_task(recipe("distillation.kind=soft")), 0)
    assert np.array_equal(soft.answers["classes"][:, :1], hard.answers["classes"])
    path = teach(make_task(recipe("distillation.kind=soft")), tmp_path / "answers").path
    start_training(taught(recipe, path))
    hard_path = teach(make_task(recipe()), tmp_path / "hard").path
    with pytest.raises(RunError, match=r"these differ: distillation\.kind: hard -> soft"):
        start_training(taught(recipe, hard_path, "distillation.kind=soft"))


# ---- answers that do not fit -----------------------------------------------------------------------------------------


def start_training(recipe) -> None:
    """As far as the first batch."""
    trainer = Trainer(make_task(recipe), recipe, None)
    next(iter(trainer.task.training_batches(trainer.batches, 0, 0)))


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


def test_answers_of_another_teacher(recipe, answers: Path, checkpoint: Path):
    other = checkpoint.with_name("other.pt")
    torch.save({name: 2 * tensor for name, tensor in torch.load(checkpoint).items()}, other)
    with pytest.raises(RunError, match=r"these differ: distillation.teacher's weights: sha256 .* -> sha256"):
        start_training(recipe(f"distillation.answers={answers}", f"distillation.teacher.checkpoint={other}"))


def test_answers_of_fewer_epochs(recipe, answers: Path):
    with pytest.raises(RunError, match="has answers to 2 epochs, but the recipe is of 5: run `fastvit teach` again"):
        start_training(taught(recipe, answers, "schedule.epochs=5"))


def test_a_changed_library_is_noticed_by_the_images(recipe, answers: Path, monkeypatch: pytest.MonkeyPatch):
    read = TransformedImages.__getitem__

    def brighter(self, index: int):
        image, label = read(self, index)
        return image + index % 2, label

    monkeypatch.setattr(TransformedImages, "__getitem__", brighter)
    stored = taught(recipe, answers)
    trainer = Trainer(make_task(stored), stored, None)
    with pytest.raises(RunError, match=r"the images of epoch 1 are not those .*: the files in data.root are others"):
        list(trainer.task.training_batches(trainer.batches, 0, 0))
    monkeypatch.setattr(fingerprint.timm, "__version__", "9.9")
    with pytest.raises(RunError, match=r"made with other versions \(timm: .* -> 9.9\)"):
        list(trainer.task.training_batches(trainer.batches, 0, 0))


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
            file.append(file.read(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (file.epochs, file.is_truncated) == (1, True)
    assert teach(make_task(recipe()), path).epochs == EPOCHS


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
