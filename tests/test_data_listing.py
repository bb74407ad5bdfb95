"""Tables and undivided folders: what they give, and what is said about mistakes in them."""

import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastvit.data.division import Division, divided
from fastvit.data.listing import Listing, Row, is_undivided, list_folder, open_listing, read_table
from fastvit.errors import DataError
from fastvit.recipes import load_recipe
from photographs import of_no_text


def photos(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / path)
    return root


def table(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text, encoding="utf-8-sig")  # as Excel writes it
    return folder / "labels.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path, "a.png", "more/b.png", "c.png", "d.png")


def test_a_table_of_one_label_an_image(folder: Path):
    path = table(folder, "label,split,path\ncat,train,a.png\ndog,train, more/b.png\ncat,val,c.png\ndog,test,d.png\n")
    listing = read_table(path, None, "label")
    train, val, test = (open_listing(listing, name, None, upright=True) for name in ("train", "validation", "test"))
    assert train.classes == val.classes == ("cat", "dog")
    assert [train[index][1] for index in range(2)] == [0, 1]
    assert train[1][0].size == (8, 8)
    assert [(each.samples[0][0], each[0][1]) for each in (val, test)] == [
        (str(folder / "c.png"), 0),
        (str(folder / "d.png"), 1),
    ]


def test_a_table_of_several_labels_an_image_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    path = table(tmp_path_factory.mktemp("table"), 'path,labels\na.png,sea| sun\nmore/b.png,\nc.png,"sun"\n')
    listing = read_table(path, folder, "labels")
    images = open_listing(listing, "all", ("sun", "moon", "sea"), upright=True)
    assert images.targets.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(images[0][1], images.targets[0])
    assert images.notices == (f"{path}: no image of the split all has 1 of the labels, moon",)


SEVEN = "path,label\n" + "".join(f"{i}.png,cat\n" for i in range(7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SEVEN, "names 7 images that are not there, in "),
        (SEVEN, ": 0.png, 1.png, 2.png, 3.png, 4.png and 2 more"),
        ("path,label\na.png,cat\nc.png,\n", "names 1 images without a label: c.png"),
        ("path,label\na.png,cat\na.png,dog\n", "names 1 images more than once: a.png"),
        ("path,label\n", "names no images"),
        ("", "lacks the column path and label, and has none: the first line names the columns, path,label and"),
        ("file,label\na.png,cat\n", "lacks the column path, and has file, label: the first line names the columns"),
        (
            "path,labels\na.png,cat\n",
            "column labels, several labels an image: train with task=multi_label, or name the",
        ),
    ],
)
def test_mistakes_in_a_table(text: str, message: str, folder: Path):
    with pytest.raises(DataError, match=re.escape(message)):
        read_table(table(folder, text), None, "label")


def test_one_label_where_several_are_asked_for(folder: Path):
    with pytest.raises(DataError, match="has the column label, one label an image: train with task=classification"):
        read_table(table(folder, "path,label\na.png,cat\n"), None, "labels")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(folder / "nowhere.csv", None, "label")


def test_labels_that_are_not_known_and_labels_that_no_image_has(folder: Path):
    path = table(folder, "path,label,split\na.png,cat,train\nc.png,dog,train\nd.png,emu,val\n")
    listing = read_table(path, None, "label")
    with pytest.raises(DataError, match=r"1 labels that are not in data.classes: emu \(1 images\)"):
        open_listing(listing, "train", ("cat", "dog"), upright=True)
    with pytest.raises(DataError, match="no image of the split train has 1 of the labels, emu: what has no examples"):
        open_listing(listing, "train", None, upright=True)
    with pytest.raises(DataError, match=r"no images of the split test, but of train \(2\), validation \(1\)"):
        listing.part("test")


def test_an_undivided_folder(tmp_path: Path):
    photos(tmp_path, "bee/2.png", "ant/1.png", "ant/deep/0.png")
    (tmp_path / "ant" / "notes.txt").touch()
    listing = list_folder(tmp_path)
    assert is_undivided(tmp_path)
    assert listing.rows == (Row("ant/1.png", ("ant",)), Row("ant/deep/0.png", ("ant",)), Row("bee/2.png", ("bee",)))
    assert listing.ignored == (str(tmp_path / "ant" / "notes.txt"),)
    photos(tmp_path, "val/ant/0.png")
    assert not is_undivided(tmp_path)
    with pytest.raises(DataError, match="has one class folder only, only; expected <root>/train/<class>"):
        list_folder(photos(tmp_path / "other", "only/0.png"))


# ---- divided ---------------------------------------------------------------------------------------------------------

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def counts(rows: tuple[Row, ...], label: str) -> list[int]:
    return [sum(row.split == split and label in row.labels for row in rows) for split in SHARES]


def test_every_class_has_its_share():
    sizes = {"a": 1000, "b": 50, "c": 10, "d": 3, "e": 2, "f": 1}
    rows = tuple(Row(f"{name}/{i}", (name,)) for name, size in sizes.items() for i in range(size))
    found = divided(rows, SHARES, seed=0)
    assert [counts(found, name) for name in "abcd"] == [[700, 200, 100], [35, 10, 5], [7, 2, 1], [1, 1, 1]]
    assert counts(found, "e") in ([2, 0, 0], [1, 1, 0])
    assert counts(found, "f") == [1, 0, 0]  # what is alone is trained on
    assert [row.path for row in found] == [row.path for row in rows]


def test_every_label_has_its_share_also_where_images_have_several():
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.5, 0.3, 0.1, 0.02])
    there = torch.rand(2000, 4, generator=generator) < chances
    rows = tuple(Row(str(i), tuple("abcd"[j] for j in range(4) if there[i, j])) for i in range(2000))
    found = divided(rows, SHARES, seed=0)
    for name in "abcd":
        total = sum(counts(found, name))
        for count, share in zip(counts(found, name), SHARES.values(), strict=True):
            assert abs(count - share * total) <= 2  # by chance alone: 10 for "a", 2 for "d"


def test_the_division_depends_on_the_seed_and_not_on_the_order():
    rows = tuple(Row(str(i), ("ab"[i % 2],)) for i in range(100))
    first = {row.path: row.split for row in divided(rows, SHARES, seed=0)}
    assert first == {row.path: row.split for row in divided(rows[::-1], SHARES, seed=0)}
    assert first != {row.path: row.split for row in divided(rows, SHARES, seed=1)}


def test_an_earlier_division_is_kept_when_images_are_added(tmp_path: Path):
    kept = Division(0.2, 0.0, 0, tmp_path / "split.csv")
    rows = tuple(Row(f"{i}.png", ("a" if i % 2 else "b",)) for i in range(20))
    listing = Listing(tmp_path, tmp_path, rows, "label")
    first = kept.of(listing)
    assert first.notices == (f"{tmp_path} has no folders train and val: divided by seed 0, train 16, validation 4",)
    first.write(kept.kept)
    assert [row["split"] for row in csv.DictReader(kept.kept.open())] == [row.split for row in first.rows]
    more = Listing(tmp_path, tmp_path, (*rows, Row("new.png", ("a",))), "label")
    again = Division(0.5, 0.1, 1, kept.kept).of(more)
    assert again.rows[:-1] == first.rows
    assert again.rows[-1].split is None
    assert again.notices == (f"images of {tmp_path} that are left out, since they are not in {kept.kept}: 1",)
    others = Listing(tmp_path, tmp_path, (Row("other.png", ("a",)),), "label")
    with pytest.raises(DataError, match=r"are not those that .*split.csv divides: .* data\.val_split=all"):
        kept.of(others)


def test_other_images_than_those_that_the_run_divides_are_all_validated_on(tmp_path: Path):
    """As the error says."""
    root = photos(tmp_path / "images", "ant/0.png", "bee/1.png", "bee/2.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.csv").write_text("path,label,split\nant/7.png,ant,train\nbee/8.png,bee,validation\n")
    of_run = [f"output={tmp_path / 'run'}", f"data.root={root}", "data.num_classes=2", "data.classes=[ant, bee]"]
    with pytest.raises(DataError, match=r"are not those that .*split.csv divides: .* data\.val_split=all"):
        load_recipe("classification/finetune", of_run).open_images(training=False)
    images = load_recipe("classification/finetune", [*of_run, "data.val_split=all"]).open_images(training=False)
    assert images.targets.tolist() == [0, 1, 1]
    assert images.notices == ()


def test_a_list_that_says_its_splits_is_not_divided(tmp_path: Path):
    listing = Listing(tmp_path, tmp_path, (Row("a", ("x",), "train"), Row("b", ("x",), "validation")), "label")
    assert Division(0.5, 0.0, 0, tmp_path / "split.csv").of(listing) is listing


def test_a_division_of_files_whose_names_are_no_text_is_kept(tmp_path: Path):
    root = photos(tmp_path / "root", "cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png")
    odd = of_no_text(root / "cat")
    division = Division(0.5, 0.0, 0, tmp_path / "split.csv")
    listing = division.of(list_folder(root))
    assert f"cat/{odd.name}" in {row.path for row in listing.rows}
    listing.write(division.kept)
    again = division.of(list_folder(root))
    assert (again.rows, again.notices) == (listing.rows, ())
