"""The weights of a file, by `--checkpoint`: a fused file is the network that it was made from."""

import json

import pytest
import timm
import timm.models.fastvit as builtin
import torch
from safetensors.torch import save_file

from fastvit import reparameterize_model
from fastvit.deploy import load
from fastvit.errors import RunError
from fastvit.features.embedder import Embedder
from fastvit.trained import load_trained
from launch import QUICKSTART, complaint, script

NAMED = {"fastvit_t8": {"num_classes": 10, "image_size": (32, 32)}, QUICKSTART: {}}


@pytest.fixture(scope="module")
def right(random_run):
    return load_trained(random_run)


@pytest.fixture(scope="module")
def files(right, tmp_path_factory):
    """Its weights, fused by the export, and by timm's own pass over timm's own network."""
    folder = tmp_path_factory.mktemp("fused")
    script("export")([right.source, "--format", "safetensors", "--output", str(folder), "--name", "ours"])
    theirs = builtin.fastvit_t8(num_classes=10).eval()
    theirs.load_state_dict(right.module.state_dict())
    torch.save(timm.utils.reparameterize_model(theirs).state_dict(), folder / "timms.pt")
    return {"ours": folder / "ours.safetensors", "timm's": folder / "timms.pt"}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("source", NAMED)
@pytest.mark.parametrize("form", ["ours", "timm's"])
def test_a_fused_file_gives_the_same_answers(files, right, images, form, source):
    found = load_trained(source, checkpoint=files[form], **NAMED[source])
    with torch.no_grad():
        torch.testing.assert_close(found.module(images), right.module(images), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_fused_file_is_exported_and_embedded(files, right, images, tmp_path):
    named = ["fastvit_t8", "--checkpoint", str(files["timm's"]), "--features", "--image-size", "32", "--batch", "2"]
    script("export")([*named, "--format", "safetensors", "--output", str(tmp_path)])
    stages = right.module.forward_intermediates(images, intermediates_only=True)
    exported = load(tmp_path / "fastvit_t8.safetensors")(images)
    torch.testing.assert_close(list(exported), stages, rtol=1e-3, atol=1e-3)
    crops = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    found = load_trained(QUICKSTART, checkpoint=files["ours"])
    embeddings = [torch.from_numpy(Embedder(each, torch.device("cpu"))(crops)) for each in (found, right)]
    torch.testing.assert_close(*embeddings, rtol=1e-3, atol=1e-3)


def test_a_fused_file_is_evaluated_as_what_it_is(files, right, tmp_path, capsys):
    evaluate, named = script("evaluate"), [QUICKSTART, "--checkpoint", str(files["ours"])]
    evaluate([*named, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert "unfused" not in found
    fused = reparameterize_model(right.module)
    assert found["fused"]["parameters"] == sum(parameter.numel() for parameter in fused.parameters())
    said = complaint(evaluate, [*named, "--form", "unfused"], capsys)
    assert said == f"{QUICKSTART}: the weights are fused, and there is no other form of them: leave out --form"


def test_a_fused_file_that_does_not_fit_gets_a_sentence_for_the_command_line(files, right, tmp_path):
    with pytest.raises(RunError, match=r"classifier of 10 classes, .* one of 1000: say how many with --num-classes$"):
        load_trained("fastvit_t8", checkpoint=files["ours"])
    state = {name: tensor for name, tensor in right.module.state_dict().items() if not name.startswith("head.")}
    save_file(state, tmp_path / "headless.safetensors")
    message = r"lacks head\.fc\.weight, lacks head\.fc\.bias: create the network with num_classes=0 in Python$"
    with pytest.raises(RunError, match=message):
        load_trained("fastvit_t8", checkpoint=tmp_path / "headless.safetensors", num_classes=10)
