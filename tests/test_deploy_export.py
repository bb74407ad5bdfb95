"""What is left of an export that fails (nothing), and what it says."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch

from deployment import PREPROCESSING, need, small_network
from fastvit.compare import relative_error
from fastvit.deploy import FORMATS, Card, export, load
from fastvit.deploy.files import placed_when_done
from fastvit.deploy.sidecar import write_sidecar
from fastvit.errors import ExportError, MissingPackage, UserError
from launch import complaint, script

EXAMPLE = torch.zeros(1, 3, 64, 64)


@pytest.fixture(scope="module")
def model():
    return small_network()


@pytest.fixture
def quick(monkeypatch):
    """Exports are the format of safetensors: no converter to wait for."""
    return FORMATS["safetensors"]


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_wrong_result_leaves_nothing(model, tmp_path, quick, monkeypatch):
    right = quick.verify
    monkeypatch.setattr(quick, "verify", lambda *args: lambda x: tuple(1.001 * y for y in right(*args)(x)))
    with pytest.raises(ExportError, match=r"differs from the network by 1\.0e-03"):
        export(model, tmp_path / "a.safetensors", EXAMPLE)
    assert everything(tmp_path) == set()


def test_a_result_that_is_not_a_number_leaves_nothing(model, tmp_path, quick, monkeypatch):
    right = quick.verify
    monkeypatch.setattr(quick, "verify", lambda *args: lambda x: tuple(y * float("nan") for y in right(*args)(x)))
    with pytest.raises(ExportError, match="by nan"):
        export(model, tmp_path / "a.safetensors", EXAMPLE)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("wrong", "error"), [(lambda y: y * float("nan"), "nan"), (lambda y: y[:, None], "inf"), (lambda y: y[1:], "inf")]
)
def test_a_wrong_result_at_one_of_several_shapes_leaves_nothing(model, tmp_path, quick, monkeypatch, wrong, error):
    """Python takes 1e-6 for the larger of 1e-6 and NaN."""
    right = quick.verify

    def run_of(*args):
        run = right(*args)
        return lambda x: tuple(wrong(y) if len(x) == 3 else y for y in run(x))

    monkeypatch.setattr(quick, "verify", run_of)
    with pytest.raises(ExportError, match=f"differs from the network by {error}"):
        export(model, tmp_path / "a.safetensors", EXAMPLE, dynamic=("batch",))
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            RuntimeError("no kernel\nand why"),
            r"^the safetensors file .* cannot be verified \(RuntimeError: no kernel\)$",
        ),
        (ExportError("it says why"), "^it says why$"),
        (OSError("no such library"), r"cannot be verified \(OSError: no such library\)$"),
        (OSError(28, "No space left"), r"^cannot write .*a\.safetensors \(No space left\)$"),
    ],
)
def test_a_runtime_that_fails_gets_a_sentence_and_leaves_nothing(model, tmp_path, quick, monkeypatch, failure, message):
    def fail(*args):
        raise failure

    monkeypatch.setattr(quick, "verify", fail)
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path / "a.safetensors", EXAMPLE)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("mode", ["autocast", "inference"])
def test_the_caller_s_mode_is_not_the_file_s(model, tmp_path, mode):
    need("onnx")
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else torch.inference_mode():
        export(model, tmp_path / "a.onnx", images)
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(images)
    assert relative_error(load(tmp_path / "a.onnx")(images), expected) < 1e-5


def test_a_failing_converter_leaves_what_was_there(model, tmp_path, quick, monkeypatch):
    export(model, tmp_path / "a.safetensors", EXAMPLE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(request, path):
        path.write_text("half a file")
        raise RuntimeError("no such operator\nand a long explanation")

    monkeypatch.setattr(quick, "convert", fail)
    with pytest.raises(ExportError, match=r"cannot convert this network \(RuntimeError: no such operator\)$"):
        export(model, tmp_path / "a.safetensors", EXAMPLE, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_nothing_is_overwritten_unless_it_is_said(model, tmp_path):
    path = tmp_path / "a.safetensors"
    export(model, path, EXAMPLE)
    before = path.read_bytes()
    with torch.no_grad():
        other = small_network()
        other.head.fc.bias += 1
    with pytest.raises(ExportError, match="exists already"):
        export(other, path, EXAMPLE)
    assert path.read_bytes() == before
    export(other, path, EXAMPLE, overwrite=True)
    assert path.read_bytes() != before
    assert everything(tmp_path) == {"a.safetensors", "a.safetensors.json"}


def test_what_cannot_be_replaced_is_whole_as_before(tmp_path, monkeypatch):
    """The folder and the file beside it are moved aside and into place, one after the other: whichever move fails."""
    path = tmp_path / "a.mlpackage"

    def write(text):
        with placed_when_done(path, FORMATS["coreml"]) as draft:
            draft.mkdir()
            (draft / "weights").write_text(text)
            write_sidecar({"of": text}, draft)

    def contents():
        return {str(each.relative_to(tmp_path)): each.read_text() for each in tmp_path.rglob("*") if each.is_file()}

    write("old")
    before, move = contents(), Path.replace
    assert set(before) == {"a.mlpackage/weights", "a.mlpackage.json"}
    for failing in range(4):
        calls = []

        def fail(self, target, failing=failing, calls=calls):
            calls.append(target)
            if len(calls) == failing + 1:
                raise OSError(5, "Input/output error")
            return move(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fail)
            with pytest.raises(ExportError, match=r"^cannot write .*a\.mlpackage \(Input/output error\)$"):
                write("new")
        assert contents() == before
    write("new")
    assert (path / "weights").read_text() == "new"
    assert everything(tmp_path) == {"a.mlpackage", "a.mlpackage/weights", "a.mlpackage.json"}


def test_targets_are_looked_at_before_the_network(tmp_path):
    """Fusing and converting take time; what is there already is known at once."""
    (tmp_path / "a.onnx.json").write_text("mine")
    with pytest.raises(ExportError, match="exists already"):
        export(None, tmp_path / "a.onnx", EXAMPLE)
    assert (tmp_path / "a.onnx.json").read_text() == "mine"


def test_a_full_disk_is_not_blamed_on_the_converter(model, tmp_path, quick, monkeypatch):
    usage = shutil.disk_usage(tmp_path)

    def fill(request, path):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
        raise RuntimeError("could not write")

    monkeypatch.setattr(quick, "convert", fill)
    for _ in range(2):  # once it fills up on the way, once it is full before
        with pytest.raises(ExportError, match=r"the disk of .* is full: 0\.0 MB are left, .* make room"):
            export(model, tmp_path / "a.safetensors", EXAMPLE)
    assert everything(tmp_path) == set()


def test_detectors_get_a_sentence_before_any_work(tmp_path):
    from fastvit.models import mask_rcnn
    from fastvit.tasks.detection.task import Detection

    detector = mask_rcnn("fastvit_t8", num_classes=3)
    with pytest.raises(ExportError, match=r"finds another number of boxes in each image.*with its `backbone`"):
        export(detector, tmp_path / "a.onnx", EXAMPLE)
    assert everything(tmp_path) == set()
    assert not Detection.exportable  # which a finished run asks before it recommends the command


def test_files_have_the_usual_permissions(model, tmp_path):
    export(model, tmp_path / "a.safetensors", EXAMPLE)
    (tmp_path / "usual").write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_folders_have_the_usual_permissions(tmp_path):
    """Converters make theirs for the owner alone."""
    path = tmp_path / "a.mlpackage"
    with placed_when_done(path, FORMATS["coreml"]) as draft:
        (draft / "Data").mkdir(parents=True, mode=0o700)
        draft.chmod(0o700)
        (draft / "Data" / "weights").write_text("")
        write_sidecar({}, draft)
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "file").write_text("")
    for usual, ours in (("usual", ("", "Data")), ("usual/file", ("Data/weights",))):
        assert {(path / each).stat().st_mode for each in ours} == {(tmp_path / usual).stat().st_mode}


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    export(torch.nn.Conv2d(3, 2, 1), "~/a.exported.pt2", EXAMPLE)
    assert everything(tmp_path) == {"a.exported.pt2", "a.exported.pt2.json"}
    load("~/a.exported.pt2")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a.xyz", {}, "none of .onnx"),
        ("a.onnx", {"format": "onxx"}, "did you mean onnx?"),
        ("a.onnx", {"format": "safetensors"}, "must end in .safetensors"),
        ("a.safetensors", {"opset": 20}, "an opset is for onnx"),
        ("a.onnx", {"opset": 16}, "opset must be from 18 to 24, not 16"),
        ("a.safetensors", {"dynamic": ("width",)}, "cannot keep open: width"),
        ("a.mlpackage", {"dynamic": ("batch",)}, "cannot keep open: batch"),
        ("a.safetensors", {"card": Card(labels=("a", "b"))}, "2 labels for an output of shape (1, 7)"),
        ("a.safetensors", {"example_input": torch.zeros(3, 64, 64)}, "(B, C, H, W), not (3, 64, 64)"),
        ("a.safetensors", {"example_input": torch.zeros(1, 1, 64, 64)}, "does not take images of shape (1, 1, 64, 64)"),
        ("a.safetensors", {"example_input": torch.zeros(1, 3, 32, 32), "dynamic": ("size",)}, "64 to 1024 pixels"),
        ("a.mlpackage", {"example_input": torch.zeros(2, 3, 64, 64)}, "one RGB image at a time"),
    ],
)
def test_bad_requests_get_a_sentence_and_leave_nothing(model, tmp_path, path, options, message):
    kind = next((each for each in FORMATS.values() if path.endswith(each.suffix)), None)
    if kind:
        need(kind.name)
    options = {"example_input": EXAMPLE, "card": Card(PREPROCESSING), **options}
    with pytest.raises(UserError) as caught:
        export(model, tmp_path / path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.packages])
def test_a_missing_package_names_the_extra(model, tmp_path, monkeypatch, name):
    monkeypatch.setattr("fastvit.errors.find_spec", lambda module: None)
    with pytest.raises(MissingPackage, match=rf'pip install "fastvit\[{FORMATS[name].extra}\]"'):
        export(model, tmp_path / f"a{FORMATS[name].suffix}", EXAMPLE)


def test_every_extra_that_a_format_names_installs_its_packages():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for each in FORMATS.values():
        if each.packages:
            assert {*each.packages, *each.converters} <= {
                line.split(">")[0].split("=")[0] for line in extras["optional-dependencies"][each.extra]
            }


def test_a_target_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write into"):
        export(model, tmp_path / "file" / "a.safetensors", EXAMPLE)
    if os.geteuid():  # root may write everywhere
        tmp_path.chmod(0o500)
        with pytest.raises(ExportError, match="cannot write into"):
            export(model, tmp_path / "a.safetensors", EXAMPLE)
        tmp_path.chmod(0o700)


def test_a_build_of_onnx_runtime_by_another_name_has_its_version(monkeypatch):
    """As onnxruntime-gpu, which brings the same module."""
    need("onnx")
    import onnxruntime

    from fastvit.runtime import environment

    def version(distribution):
        if distribution in ("onnxruntime", "no-such"):
            raise environment.PackageNotFoundError(distribution)
        return "1.0"

    monkeypatch.setattr(environment, "version", version)
    assert FORMATS["onnx"].versions()["onnxruntime"] == onnxruntime.__version__
    assert environment.version_of("no-such", "abc") == "unknown"  # a module without a version
    assert (environment.installed("no-such"), environment.installed("onnx")) == ("", "1.0")


def test_the_script_never_exports_random_weights_unasked(tmp_path, capsys):
    export_script = script("export")
    arguments = ["fastvit_t8", "--format", "safetensors", "--output", str(tmp_path), "--image-size", "64"]
    message = complaint(export_script, arguments, capsys)
    assert "--random-weights" in message
    assert "fastvit_t8.apple_in1k" in message
    assert everything(tmp_path) == set()
    export_script([*arguments, "--random-weights", "--num-classes", "3"])
    assert everything(tmp_path) == {"fastvit_t8.safetensors", "fastvit_t8.safetensors.json"}
    assert '"weights": "random"' in (tmp_path / "fastvit_t8.safetensors.json").read_text()


def test_a_checkpoint_of_another_variant_gets_a_sentence(tmp_path, capsys):
    import timm

    torch.save(timm.create_model("fastvit_t12", num_classes=3).state_dict(), tmp_path / "t12.pt")
    arguments = ["fastvit_t8", "--checkpoint", str(tmp_path / "t12.pt"), "--num-classes", "3"]
    message = complaint(script("export"), [*arguments, "--format", "onnx", "--output", str(tmp_path / "out")], capsys)
    assert "fastvit_t12" in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_feature_backbones_export_by_the_script(tmp_path, capsys):
    arguments = ["fastvit_t8", "--random-weights", "--features", "--image-size", "64", "96", "--output", str(tmp_path)]
    script("export")([*arguments, "--format", "torch_export"])
    features = load(tmp_path / "fastvit_t8.exported.pt2")(torch.randn(1, 3, 64, 96))
    assert [tuple(each.shape[1:]) for each in features] == [(48, 16, 24), (96, 8, 12), (192, 4, 6), (384, 2, 3)]
