"""What is said on the command line arrives where the work is done, and nothing is replaced unasked."""

import numpy as np
import pytest
from PIL import Image

from fastvit.cli.main import COMMANDS, main
from fastvit.errors import DataError
from fastvit.features.files import Embeddings, write_embeddings
from fastvit.features.probe import Linear, Neighbours
from launch import complaint

NAMES = ("zéro", *(f"number {i}" for i in range(1, 10)))


@pytest.fixture
def places(random_run, tmp_path):
    """A run, an image, names of ten classes and of two, embeddings; and a folder for what is written."""
    Image.new("RGB", (40, 40), "gray").save(tmp_path / "photo.png")
    (tmp_path / "labels.txt").write_text("\n".join(f" {name}\n" for name in NAMES), encoding="utf-8")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    about = {"model": {}, "source": "a network", "unreadable": []}
    embeddings = Embeddings(np.array(["1.png"]), np.array(["cat"]), np.zeros((1, 2)), about)
    write_embeddings(embeddings, tmp_path / "embeddings.npz")
    return {"run": random_run, "here": tmp_path}


def words(command, places):
    return command.format(**places).split()


def quantized(model, path, calibration, validation, *, min_agreement, max_top1_loss, overwrite, **_):
    return len(calibration), min_agreement, max_top1_loss, overwrite


def exported(model, path, example, *, opset, card, overwrite, **_):
    return opset, card.labels, overwrite


QUANTIZE = "quantize {run} --format onnx --output {here}"
EXPORT = "export {run} --format onnx torch_export --output {here}"
PROBE = "probe {here}/embeddings.npz {here}/embeddings.npz"
ARRIVES = {  # what does the work -> what it gets, of its arguments; and commands with what they have it get
    "fastvit.deploy.int8.quantize": (
        quantized,
        {
            f"{QUANTIZE} --calibration 40 --min-agreement 97.5 --max-top1-loss 0.25": [(40, 97.5, 0.25, False)],
            f"{QUANTIZE} --overwrite": [(128, 98.0, 1.0, True)],
        },
    ),
    "fastvit.deploy.export": (
        exported,
        {
            f"{EXPORT} --opset 20 --labels {{here}}/labels.txt": [(20, NAMES, False), (None, NAMES, False)],
            f"{EXPORT} --overwrite": [(None, tuple("0123456789"), True)] * 2,
        },
    ),
    "fastvit.features.probe.probe": (
        lambda train, val, *, neighbours, linear: (neighbours, linear),
        {
            f"{PROBE} --k 3 --temperature 0.5": [(Neighbours(3, 0.5), Linear())],
            f"{PROBE} --knn": [(Neighbours(20, 0.07), None)],
            f"{PROBE} --linear": [(None, Linear())],
        },
    ),
    "fastvit.features.images.find_parts": (
        lambda names, **more: (names, more["split"], more["columns"]),
        {
            "embed {run} hfds/photos --split train --image-column picture --label-column kind --output {here}/new": [
                (["hfds/photos"], "train", ("picture", "kind"))
            ]
        },
    ),
    "fastvit.deploy.hub.push": (
        lambda folder, name, **more: (name, more),
        {
            "push {run} jane/digits --private --message First": [
                ("jane/digits", {"private": True, "message": "First"})
            ],
            "push {run} jane/digits": [("jane/digits", {"private": False, "message": "Upload by fastvit"})],
        },
    ),
}


@pytest.mark.parametrize(
    ("work", "command"), [(work, command) for work, (_, commands) in ARRIVES.items() for command in commands]
)
def test_what_is_said_arrives(work, command, places, monkeypatch, capsys):
    if command.startswith("push"):  # what comes before it takes its time
        monkeypatch.setattr("fastvit.deploy.export", lambda *_, **__: None)
        monkeypatch.setattr("fastvit.deploy.hub.get_token", lambda: "a token")
    look, commands = ARRIVES[work]
    arrived = []

    def instead(*arguments, **options):
        arrived.append(look(*arguments, **options))
        raise DataError("seen")

    monkeypatch.setattr(work, instead)
    assert "seen" in complaint(main, words(command, places), capsys)
    assert arrived == commands[command]


ZEROSHOT = "zeroshot open_clip:MobileCLIP2-S0 {here}/embeddings.npz --random-weights --classes cat dog"
WRITES = {
    "predict {here}/photo.png --model {run} --output {here}/digits.csv": "digits.csv",
    "export {run} --format safetensors --output {here}": "digits.safetensors",
    "quantize {run} --format onnx --output {here}": "digits-int8.onnx",
    f"{PROBE} --output {{here}}/probe.json": "probe.json",
    f"{ZEROSHOT} --output {{here}}/said.csv": "said.csv",
}


@pytest.mark.parametrize("command", WRITES)
def test_what_is_there_is_replaced_only_where_that_is_said(command, places, monkeypatch, capsys):
    def quantize(model, path, *_, overwrite, **__):
        assert overwrite
        path.write_text("int8")

    monkeypatch.setattr("fastvit.deploy.int8.quantize", quantize)
    top1 = {"top1": 90.0, "C": 1.0}
    monkeypatch.setattr("fastvit.cli.quantize.table", lambda sidecar: "")
    monkeypatch.setattr("fastvit.features.probe.probe", lambda *_, **__: {"classes": 2, "knn": top1, "linear": top1})
    monkeypatch.setattr("fastvit.features.zero_shot.zero_shot", lambda *_, **__: np.array([[0.9, 0.1]]))
    path = places["here"] / WRITES[command]
    path.write_text("mine")
    assert f"{path} exists already" in complaint(main, words(command, places), capsys)
    assert path.read_text() == "mine"
    main([*words(command, places), "--overwrite"])
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize("command", [PROBE, ZEROSHOT])
def test_a_file_that_cannot_be_written_is_found_before_the_work(command, places, monkeypatch, capsys):
    monkeypatch.setattr("fastvit.features.files.read_embeddings", lambda path: pytest.fail("read"))
    for output, sentence in (
        ("{here}", "--output {here} cannot be written ("),
        ("{here}/two.txt/x/y", "--output {here}/two.txt/x cannot be written: {here}/two.txt is not a writable folder"),
    ):
        for said in ("", " --overwrite"):
            told = complaint(main, words(f"{command} --output {output}{said}", places), capsys)
            assert told.startswith(sentence.format(**places))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("export {run} --format onnx --labels {here}/no.txt", "the labels in {here}/no.txt cannot be read"),
        ("export {run} --format onnx --labels {here}/photo.png", "the labels in {here}/photo.png cannot be read"),
        (
            "export {run} --format onnx --labels {here}/two.txt",
            "{here}/two.txt has 2 names, and {run} has 10 classes",
        ),
        (
            "export fastvit_mci0 --random-weights --format onnx --labels {here}/two.txt",
            "--labels: fastvit_mci0 is for features, which has no classes",
        ),
        (
            "quantize quickstart/segmentation_digits --random-weights --format onnx",
            "quickstart/segmentation_digits is no classifier: int8 is measured by its classes",
        ),
        (f"{PROBE} --k 0", "--k has to be at least 1"),
        (f"{PROBE} --temperature 0", "--temperature more than 0"),
        (
            "push fastvit_t8.apple_in1k jane/flowers",
            "fastvit_t8.apple_in1k is a network of timm's, which has no recipe: upload a run",
        ),
    ],
)
def test_what_does_not_go_together_gets_a_sentence(command, sentence, places, monkeypatch, capsys):
    monkeypatch.setattr("fastvit.deploy.hub.get_token", lambda: "a token")
    said = complaint(main, words(command, places), capsys)
    assert sentence.format(**places) in said
    assert len(said.splitlines()) == 1


def test_a_command_that_is_none_gets_the_list_of_those_that_are(capsys):
    said = complaint(main, ["expotr"], capsys)
    assert said.startswith("fastvit has no command 'expotr'; did you mean export?\n")
    assert complaint(main, ["nonsense"], capsys).startswith("fastvit has no command 'nonsense'\n")
    assert all(f"fastvit {name} " in said for name in COMMANDS)
