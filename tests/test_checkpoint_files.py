"""What is read of a file of weights, by all that read one: FastViT's loader and that of other networks."""

import argparse
import pickle

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from checkpoints import equal
from fastvit.checkpoint_files import CheckpointError, contents_of, state_dict_in
from fastvit.pretrained import load_weights
from reference import small

STATE = {"weight": torch.arange(3.0), "bias": torch.ones(2, dtype=torch.int64)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pt"


WRITERS = {
    "torch": torch.save,
    "old torch": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".safetensors", ""])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_suffix_does_not_matter(writer, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    WRITERS[writer](STATE, path)
    assert equal(contents_of(path), STATE)


def test_the_command_line_of_timms_training_script_is_plain_data(path):
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=0.1, betas=[0.9])}, path)
    assert contents_of(path)["args"].lr == 0.1


def _truncated(writer, length=-5000):
    def write(path):
        WRITERS[writer]({"weight": torch.zeros(10_000)}, path)
        path.write_bytes(path.read_bytes()[:length])

    return write


DAMAGED = r"is damaged or truncated \(.+\): download or copy it again$"
CODE = "holds Python objects besides tensors, which could run code and are not loaded: .* write it again"
NO_CHECKPOINT = {
    "text": (
        lambda path: path.write_text("<html>404 not found</html>"),
        "is not a checkpoint: neither safetensors nor",
    ),
    "empty": (lambda path: path.write_bytes(b""), "is not a checkpoint: neither safetensors nor"),
    "pickled model": (lambda path: torch.save(nn.Linear(2, 2), path), CODE),
    "plain pickle": (lambda path: path.write_bytes(pickle.dumps({"state_dict": [1, 2]})), CODE),
    "script": (lambda path: torch.jit.script(nn.Linear(2, 2)).save(path), "is a TorchScript program"),
    "truncated": (_truncated("torch"), DAMAGED),
    "truncated old": (_truncated("old torch"), DAMAGED),
    "truncated in its beginning": (_truncated("old torch", 20), DAMAGED),
    "truncated safetensors": (_truncated("safetensors"), DAMAGED),
    "begins as a zip archive": (lambda path: path.write_bytes(b"PK and nothing else"), DAMAGED),
    "ends as a zip archive": (lambda path: path.write_bytes(b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18), DAMAGED),
    "begins as a pickle": (lambda path: path.write_bytes(b"\x80\x02]q"), DAMAGED),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINT)
def test_files_that_are_no_checkpoint(kind, path):
    write, message = NO_CHECKPOINT[kind]
    write(path)
    with pytest.raises(CheckpointError, match=message) as error:
        contents_of(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        contents_of(path)


# Averages before the last weights, then the more usual name.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "module")


@pytest.mark.parametrize("place", range(len(WRAPPERS)))
def test_wrappers(place):
    source = {"epoch": 3, **{name: {} for name in WRAPPERS[place:]}, WRAPPERS[place]: STATE}
    assert equal(state_dict_in(source, "it"), STATE)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_without_what_ddp_and_the_compiler_put_before_them(prefix):
    state = {f"{prefix}{name}": tensor for name, tensor in STATE.items()}
    assert equal(state_dict_in({"state_dict": state}, "it"), STATE)
    assert list(state) == [f"{prefix}{name}" for name in STATE], "the caller's own stays as it is"


@pytest.mark.parametrize("source", [[1, 2], {"model": [1]} | {3: 4}], ids=str)
def test_what_holds_no_state_dict(source):
    with pytest.raises(CheckpointError, match=r"^it is not a checkpoint: it holds a (list|dict), no state dict$"):
        state_dict_in(source, "it")


@pytest.mark.parametrize("name", ["fastvit_t8", "test_resnet"])
@pytest.mark.parametrize("content", ["tutorial", "torchvision"])
def test_files_of_anyone_s_training_load_into_any_network(content, name, path):
    options = small(name) if name == "fastvit_t8" else {}
    model, again = (timm.create_model(name, num_classes=3, **options) for _ in range(2))
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    average = {"n_averaged": torch.tensor(7), **state}
    torch.save(
        {
            "tutorial": {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}},
            "torchvision": {"epoch": 3, "model": again.state_dict(), "model_ema": average},
        }[content],
        path,
    )
    load_weights(again, path)
    assert equal(again.state_dict(), model.state_dict())
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="is not a checkpoint: neither safetensors nor"):
        load_weights(again, path)
