"""Large data in the formats that timm reads, on small sets made here: WebDataset shards, Hugging Face datasets."""

import io
import json
import tarfile

import pytest
import torch

from fastvit.data.digits import Digits
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


def recipe_of(output, dataset, root, workers):
    overrides = [*QUICK, f"output={output}", *settings(dataset, workers)]
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


def test_shards_are_read_whole_once_and_in_another_order_each_epoch(shards, tmp_path):
    pytest.importorskip("webdataset")
    recipe = recipe_of(tmp_path / "run", "wds/digits", shards, workers=2)
    trainer = Trainer(make_task(recipe), recipe, None)
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
