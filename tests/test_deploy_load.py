"""What `load` gives back, which files it takes, and what it says about images that it cannot take."""

import pytest
import torch
from torch import nn

from deployment import small_network
from fastvit.deploy import FORMATS, export, load
from fastvit.deploy.load import Exported
from fastvit.deploy.runtimes.run import Settings
from fastvit.deploy.sidecar import read_sidecar, sha256, write_sidecar
from fastvit.errors import ExportError, UserError

EXAMPLE = torch.zeros(1, 3, 64, 64)


def test_a_file_is_loaded_only_as_it_was_verified(tmp_path):
    path = tmp_path / "a.exported.pt2"
    export(small_network(), path, EXAMPLE)
    load(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ExportError, match="is not the file that"):
        load(path)
    path.write_bytes(content)
    path.with_name("a.exported.pt2.json").unlink()
    with pytest.raises(ExportError, match="json is missing"):
        load(path)
    path.unlink()
    with pytest.raises(ExportError, match="there is no exported network"):
        load(path)


def test_what_was_renamed_is_judged_by_its_own_content(tmp_path):
    """Also beside the file that it is a copy of."""
    for name in ("model", "copy"):
        (tmp_path / f"{name}.xml").write_text("network")
        (tmp_path / f"{name}.bin").write_text("weights")
        files = {f"model{suffix}": sha256(tmp_path / f"{name}{suffix}") for suffix in (".xml", ".bin")}
        write_sidecar({"format": "openvino", "files": files}, tmp_path / f"{name}.xml")
    (tmp_path / "model.bin").unlink()
    assert read_sidecar(tmp_path / "copy.xml")["format"] == "openvino"
    with pytest.raises(ExportError, match=r"model\.bin is missing, which belongs to model\.xml"):
        read_sidecar(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_text("weights")
    (tmp_path / "copy.bin").write_text("others")
    read_sidecar(tmp_path / "model.xml")
    with pytest.raises(ExportError, match=r"copy\.bin is not the file that copy\.xml\.json is about"):
        read_sidecar(tmp_path / "copy.xml")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"files": {}}, "was not written by this version of fastvit's export"),
        ({"format": "onnx", "files": []}, "was not written by this version of fastvit's export"),
        ({"format": "onnx", "files": {}}, "was not written by this version of fastvit's export"),
        ({"format": "onxx", "files": {}}, "there is no format 'onxx', .*; did you mean onnx?"),
    ],
)
def test_what_is_beside_a_file_and_is_none_of_ours_gets_a_sentence(tmp_path, said, message):
    (tmp_path / "a.onnx").write_text("")
    write_sidecar(said, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match=message):
        read_sidecar(tmp_path / "a.onnx")


class Returns(nn.Module):
    """A small network whose output is nested in some way."""

    def __init__(self, nested):
        super().__init__()
        self.conv, self.nested = nn.Conv2d(3, 2, 1), nested

    def forward(self, x):
        return self.nested(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("nested", [lambda y: y, lambda y: (y,), lambda y: {"name": y}, lambda y: (y, y)])
def test_one_output_is_nested_as_the_network_nests_it(tmp_path, nested):
    model, images = Returns(nested).eval(), torch.randn(1, 3, 64, 64)
    export(model, tmp_path / "a.exported.pt2", EXAMPLE)
    torch.testing.assert_close(load(tmp_path / "a.exported.pt2")(images), model(images))


def loaded(sidecar):
    """What gives the sum of each image, as if it was loaded."""
    sides = {name: [64, 64] for name in ("height", "width")}
    taken = {"input": {"batch": [1, 1], "channels": [3, 3], **sides}, "format": "torch_export"}
    stated = {"preprocessing": None, "labels": None}
    return Exported(lambda images: (images.sum((1, 2, 3)),), taken | stated | sidecar, "PyTorch")


def test_a_file_of_before_says_nothing_of_how_one_output_is_nested():
    assert loaded({})(torch.ones(1, 3, 64, 64)).tolist() == [3 * 64 * 64]
    assert isinstance(loaded({"bare": False})(torch.ones(1, 3, 64, 64)), tuple)


def test_one_image_alone_is_told_what_images_are():
    with pytest.raises(UserError, match=r"shape \(B, C, H, W\), not torch.float32 of \(3, 64, 64\)"):
        loaded({})(torch.zeros(3, 64, 64))


def test_an_array_that_runs_backwards_is_taken():
    """A picture from OpenCV, whose channels were turned round."""
    images = torch.randn(1, 3, 64, 64).numpy()
    assert loaded({})(images[:, ::-1]).item() == pytest.approx(images.sum(), rel=1e-4)


def test_litert_has_threads_and_no_streams():
    FORMATS["litert"].require_settings(Settings(threads=2))
    with pytest.raises(ExportError, match="LiteRT computes one call at a time: leave out streams"):
        FORMATS["litert"].require_settings(Settings(threads=2, streams=2))
