"""Large data in the formats that timm reads, on small sets made here: WebDataset shards, Hugging Face datasets."""

import io
import json
import tarfile

import pytest
import torch

from fastvit.data.digits import Digits
from fastvit.data.sources import open_source
from fastvit.errors import DataError, RecipeError
from fastvit.features.images import Samples
from fastvit.tasks import load_recipe, make_task
from fastvit.training.checkpoint import read_checkpoint
from fastvit.training.engine import Trainer, train
from fastvit.training.learner import Learner
from launch import QUICK, ROOT, finish, start_two

TRAIN, VAL = 192, 61


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Digits in WebDataset's layout: four shards to train on, two to validate, and timm's _info.json."""
    root = tmp_path_factory.mktemp("shards")
    splits = {}
    for split, count, parts in (("train", TRAIN, 4), ("validation", VAL, 2)):
        digits = Digits(train=split == "train", image_size=32)
        names, lengths = [], []
        for part in range(parts):
            members = range(part, count, parts)
            names.append(f"{split}-{part:04d}.tar")
            lengths.append(len(members))
            with tarfile.open(root / names[-1], "w") as archive:
                for index in members:
                    for suffix, content in (("png", png(digits[index][0])), ("cls", str(digits[index][1]).encode())):
                        entry = tarfile.TarInfo(f"{index:06d}.{suffix}")
                        entry.size = len(content)
                        archive.addfile(entry, io.BytesIO(content))
        splits[split] = {"name": split, "num_samples": count, "filenames": names, "shard_lengths": lengths}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """The same digits as a dataset of Hugging Face's, in Parquet files."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hugging_face")
    for split, count in (("train", TRAIN), ("validation", VAL)):
        digits = Digits(train=split == "train", image_size=32)
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))}
        )
        rows = {"image": [digits[i][0] for i in range(count)], "label": [digits[i][1] for i in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(root / f"{split}.parquet"))
    return root


def settings(dataset, workers):
    return [
        f"data.dataset={dataset}",
        f"data.workers={workers}",
        "model.name=test_byobnet",  # small
        "loop.batch_size=32",
        "schedule.epochs=2",
        "loop.checkpoint_steps=2",
    ]


def recipe_of(output, dataset, root, workers, *others):
    overrides = [*QUICK, f"output={output}", *settings(dataset, workers), *others]
    return load_recipe(
        ROOT / "configs" / "quickstart" / "digits.yaml", [*overrides, *([f"data.root={root}"] * bool(root))]
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_shards_counts_right_and_resumes_bit_for_bit(workers, shards, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    whole, broken = (recipe_of(tmp_path / name, "wds/digits", shards, workers) for name in ("whole", "broken"))
    expected = train(make_task(whole), whole)
    assert expected.step == 2 * TRAIN // 32
    assert {row["val_samples"] for row in expected.history} == {VAL}
    step = Learner.step

    def interrupted(self, number, *arguments, **options):
        if number == 9:
            raise KeyboardInterrupt
        return step(self, number, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(make_task(broken), broken)
    assert read_checkpoint(broken.output / "last.pt")["step"] == 8
    resumed = train(make_task(broken), broken, resume_from=broken.output / "last.pt")
    for key in ("state_dict", "optimizer"):
        torch.testing.assert_close(resumed.state()[key], expected.state()[key], rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_shards_are_read_whole_once_and_in_another_order_each_epoch(accumulation, shards, tmp_path):
    """Also where a batch is a part of a step: an epoch is no longer than the data then."""
    pytest.importorskip("webdataset")
    parts = [f"loop.batch_size={32 * accumulation}", f"loop.accumulation={accumulation}"]
    recipe = recipe_of(tmp_path / "run", "wds/digits", shards, 2, *parts)
    trainer = Trainer(make_task(recipe), recipe, None)
    assert trainer.batches.steps_per_epoch == TRAIN // (32 * accumulation)
    truth = torch.bincount(torch.tensor(Digits(train=True, image_size=32).labels[:TRAIN]), minlength=10)
    epochs = [torch.cat([labels for _, labels in trainer.batches.batches(epoch)]) for epoch in (0, 1)]
    for labels in epochs:
        assert torch.equal(torch.bincount(labels, minlength=10), truth)
    assert not torch.equal(*epochs)


@pytest.mark.slow
def test_two_processes_share_the_shards(shards, tmp_path):
    pytest.importorskip("webdataset")
    overrides = [*settings("wds/digits", 1), f"data.root={shards}"]
    finish(*start_two(tmp_path / "run", *overrides))
    history = read_checkpoint(tmp_path / "run" / "last.pt")["history"]
    assert {row["val_samples"] for row in history} == {VAL}
    assert history[-1]["step"] == 2 * TRAIN // 32


def test_a_dataset_of_hugging_face(hugging_face, tmp_path):
    recipe = recipe_of(tmp_path / "run", f"hfds/{hugging_face}", None, workers=0)
    trainer = train(make_task(recipe), recipe)
    assert trainer.step == 2 * TRAIN // 32
    assert {row["val_samples"] for row in trainer.history} == {VAL}
    image, label = trainer.train_data.samples.source[5]
    expected = Digits(train=True, image_size=32)[5]
    assert (png(image), label) == (png(expected[0]), expected[1])


@pytest.fixture(scope="module")
def other_columns(tmp_path_factory):
    """Of Hugging Face's, with names of its own for the columns, and one image without a label."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("columns")
    digits = Digits(train=True, image_size=32)
    names = datasets.ClassLabel(names=["nine", "eight", "seven"])
    features = datasets.Features({"img": datasets.Image(), "fine": names, "group": datasets.Value("int64")})
    rows = {"img": [digits[i][0] for i in range(4)], "fine": [2, 0, 1, -1], "group": [0, 0, 0, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(root / "train.parquet"))
    return root


def open_columns(prefix, root, *columns):
    options = {"training": False, "num_classes": None, "image_size": 32}
    return open_source(f"{prefix}/{root}", None, "train", columns=columns or (None, None), **options)


@pytest.mark.parametrize("prefix", ["hfds", "hfids"])
def test_other_columns_count_where_they_are_named_and_classes_have_their_names(prefix, other_columns):
    source = open_columns(prefix, other_columns, "img", "fine")
    assert source.classes == ["nine", "eight", "seven"]
    images = [source[i] for i in range(4)] if prefix == "hfds" else list(source)
    assert [label for _, label in images] == [2, 0, 1, -1]
    assert png(images[0][0]) == png(Digits(train=True, image_size=32)[0][0])


def test_embedded_images_have_the_names_of_their_classes(other_columns):
    part = Samples("train", "hfds/x", open_columns("hfds", other_columns, "img", "fine"), range(4))
    assert [label for _, label in map(part.read, part.entries())] == ["seven", "nine", "eight", "-1"]


def test_columns_that_are_not_there_are_named(other_columns):
    with pytest.raises(DataError, match=r"has no column label, but img, fine, group: set data.label_column to one"):
        open_columns("hfds", other_columns, "img", None)
    with pytest.raises(DataError, match=r"has no column image, but img, fine, group: set data.image_column to one"):
        open_columns("hfds", other_columns)


@pytest.mark.parametrize("dataset", ["digits", "folder", "torch/cifar10", "wds/digits"])
def test_columns_of_what_has_none(dataset):
    with pytest.raises(RecipeError, match=f"of hfds/, hfids/, tfds/; {dataset} has no columns: leave them out"):
        load_recipe("quickstart/digits", [f"data.dataset={dataset}", "data.label_column=fine"])
    with pytest.raises(RecipeError, match=r"data.image_column: must be the name of one column, but is 'a,b'"):
        load_recipe("quickstart/digits", ["data.dataset=hfds/x", 'data.image_column="a,b"'])
