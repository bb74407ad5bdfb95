"""What loads timm's networks by their names: with fastvit imported, ours load the same; without, timm's load ours."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import sklearn.datasets
import timm
import torch
from sklearn.datasets import load_digits
from timm.models import save_for_hf
from torch import nn
from transformers import FastVlmForConditionalGeneration, TimmWrapperConfig, TimmWrapperForImageClassification

import fastvit
from fastvit import reparameterize_model
from fastvit.cli.main import main
from reference import golden_weights, randomize, relative_error

PROGRAM = Path(__file__).parent / "without_fastvit.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What our network is saved to; and what timm's are, by a process that also checks what it reads and fuses."""
    folder = tmp_path_factory.mktemp("ecosystem")
    torch.manual_seed(0)
    model = randomize(timm.create_model("fastvit_t8", num_classes=5)).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.save(images, folder / "images.pt")
    torch.save(model(images).detach(), folder / "logits.pt")
    torch.save(model.state_dict(), folder / "ours.pt")
    save_for_hf(model, folder / "ours")
    wrapper = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="fastvit_t8", num_labels=5))
    wrapper.timm_model.load_state_dict(model.state_dict())
    wrapper.save_pretrained(folder / "ours_transformers")
    done = subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def images(folder):
    return torch.load(folder / "images.pt")


LOADERS = {
    "load_state_dict": lambda folder: _loaded(lambda model: model.load_state_dict(torch.load(folder / "theirs.pt"))),
    "timm.models.load_checkpoint": lambda folder: _loaded(
        lambda model: timm.models.load_checkpoint(model, folder / "theirs.pt")
    ),
    "fastvit.load_checkpoint": lambda folder: _loaded(
        lambda model: fastvit.load_checkpoint(model, folder / "theirs" / "pytorch_model.bin")
    ),
    "checkpoint_path": lambda folder: timm.create_model(
        "fastvit_t8", num_classes=5, checkpoint_path=str(folder / "theirs.pt")
    ),
    "local-dir": lambda folder: timm.create_model(f"local-dir:{folder / 'theirs'}", pretrained=True),
    "unpickled": lambda folder: torch.load(folder / "theirs.pickle", weights_only=False),
}


def _loaded(load):
    model = timm.create_model("fastvit_t8", num_classes=5)
    load(model)
    return model


@pytest.mark.parametrize("loader", LOADERS)
def test_timms_files_load(folder, images, loader):
    model = LOADERS[loader](folder).eval()
    assert isinstance(model, fastvit.FastViT) or loader == "unpickled"
    with torch.no_grad():
        assert relative_error(model(images), torch.load(folder / "logits.pt")) < 1e-5
        assert relative_error(reparameterize_model(model)(images), torch.load(folder / "logits.pt")) < 1e-5


BAD = {
    "of another variant": lambda: timm.create_model("fastvit_t12", num_classes=5).state_dict(),
    "fused": lambda: reparameterize_model(timm.create_model("fastvit_t8", num_classes=5)).state_dict(),
    "Apple's": lambda: golden_weights("fastvit_t8", "unfused"),  # of 1000 classes
}


@pytest.fixture
def bad(request, folder, tmp_path):
    """timm's folder with a file in it that does not fit what its configuration says."""
    bad = shutil.copytree(folder / "theirs", tmp_path / "bad")
    torch.save(BAD[request.param](), bad / "pytorch_model.bin")
    return bad


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("of another variant", "holds a fastvit_t12, but the model is a fastvit_t8"),
        ("fused", "holds a fastvit_t8 fused, but the model is in train form"),
        ("Apple's", "size mismatch for head"),
    ],
    indirect=["bad"],
)
def test_timm_never_loads_silently_what_does_not_fit(bad, reason):
    with pytest.raises(RuntimeError, match=r"in loading state_dict for FastViT:"):
        timm.create_model("fastvit_t8", num_classes=5, checkpoint_path=str(bad / "pytorch_model.bin"))
    with pytest.raises((RuntimeError, fastvit.CheckpointError), match=reason):
        timm.create_model(f"local-dir:{bad}", pretrained=True)


@pytest.mark.parametrize("bad", ["fused", "Apple's"], indirect=True)
def test_transformers_reports_what_does_not_fit(bad):
    _, info = TimmWrapperForImageClassification.from_pretrained(bad, output_loading_info=True)
    assert len(info["missing_keys"]) > 400
    assert info["unexpected_keys"]


@pytest.mark.parametrize("bad", ["of another variant"], indirect=True)
def test_transformers_refuses_other_shapes(bad):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        TimmWrapperForImageClassification.from_pretrained(bad)


def test_transformers_loads_a_folder_of_timm(folder, images, tmp_path):
    model, info = TimmWrapperForImageClassification.from_pretrained(folder / "theirs", output_loading_info=True)
    assert isinstance(model.timm_model, fastvit.FastViT)
    assert not any(info.values()), "nothing missing, unexpected or of another shape"
    model.save_pretrained(tmp_path)
    again = TimmWrapperForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        for each in (model, again):
            assert relative_error(each.eval()(images).logits, torch.load(folder / "logits.pt")) < 1e-5


def test_open_clip(folder, images):
    saved = torch.load(folder / "clip.pt")
    model = open_clip.create_model("MobileCLIP2-S0").eval()
    assert isinstance(model.visual.trunk, fastvit.FastViT)
    model.load_state_dict(saved["state_dict"], strict=True)
    fused = reparameterize_model(model)
    with torch.no_grad():
        for each in (model, fused):
            assert relative_error(each.encode_image(images), saved["embeddings"][: len(images)]) < 1e-5
    assert_untouched(model, fused, but="visual.")
    encoder = timm.create_model("fastvit_mci0", num_classes=512).eval()
    fastvit.load_checkpoint(encoder, folder / "clip.pt")  # finds the tower in the file
    with torch.no_grad():
        assert relative_error(encoder(images), saved["embeddings"][: len(images)]) < 1e-5


def test_transformers_fastvlm(folder, images):
    model, info = FastVlmForConditionalGeneration.from_pretrained(folder / "vlm", output_loading_info=True)
    assert isinstance(model.model.vision_tower.timm_model, fastvit.FastViT)
    assert not any(info.values())
    fused = reparameterize_model(model)
    tokens = torch.tensor([[3, 3, 3, 3, 5, 6]] * len(images))
    for each in (model.eval(), fused):
        with torch.no_grad():
            logits = each(input_ids=tokens, pixel_values=images).logits
        assert relative_error(logits, torch.load(folder / "answer.pt")) < 1e-5
    assert_untouched(model, fused, but="model.vision_tower.")
    tower = model.model.vision_tower
    encoder = timm.create_model("fastvit_mci0", num_classes=0, fused=True).eval()
    fastvit.load_checkpoint(encoder, folder / "vlm" / "model.safetensors")
    with torch.no_grad():
        assert relative_error(encoder.forward_features(images), tower(images).last_hidden_state) < 1e-5


def assert_untouched(model, fused, *, but):
    """Text tower, projector and language model are the same bit for bit."""
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(but)}
    assert rest
    after = fused.state_dict()
    assert rest.keys() == {name for name in after if not name.startswith(but)}
    assert all(torch.equal(after[name], tensor) for name, tensor in rest.items())


PAGE = (Path(__file__).parents[1] / "docs" / "mobileclip.md").read_text()


@pytest.mark.parametrize("part", ["use", pytest.param("recipes", marks=pytest.mark.slow)])
def test_the_page_s_code_runs(part, tmp_path, monkeypatch):
    use, *recipes = PAGE.split("\n## Recipe")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE if part == "recipes" else use, re.DOTALL):
        exec(compile(code, "docs/mobileclip.md", "exec"), names)
    assert recipes
    if part == "recipes":
        assert names["embedding"].shape == (1, 512)
        assert names["tokens"].shape == (1, 16, 3072)
        return
    assert names["embedding"].shape == (2, 512)
    assert names["stages"].feature_info.reduction() == [4, 8, 16, 32]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in names["clip"].modules())


@pytest.mark.slow
def test_the_page_s_recipe_without_training_runs(tmp_path, monkeypatch, capsys):
    """The commands as printed, on a part of the digits, with random weights."""
    scans, labels = load_digits(return_X_y=True)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda **_: (scans[:60], labels[:60]))
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"## Recipe: classify by .*?```bash\n(.*?)```", PAGE, re.DOTALL)
    for command in commands.replace("\\\n", "").replace(".dfndr2b", " --random-weights").splitlines():
        program, *arguments = shlex.split(command)
        assert program == "fastvit"
        main(arguments)
    said = capsys.readouterr().out
    assert all(word in said for word in ("42 images in", "18 images in", "neighbours ", "linear ", "accuracy "))
    assert len((tmp_path / "said.csv").read_text().splitlines()) == 19
