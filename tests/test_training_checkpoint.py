"""A checkpoint is on the disk as a whole or not at all."""

from pathlib import Path

import pytest
import torch

from fastvit.errors import RunError
from fastvit.training.checkpoint import read_checkpoint, read_resumable, save_checkpoint

CHECKPOINT = {"state_dict": {"weight": torch.ones(2)}, "recipe": {"task": "classification"}}


def test_what_was_saved_is_read(tmp_path: Path):
    save_checkpoint(CHECKPOINT, tmp_path / "last.pt")
    assert torch.equal(read_checkpoint(tmp_path / "last.pt")["state_dict"]["weight"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_failure_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "last.pt"
    save_checkpoint(CHECKPOINT, path)
    before = path.read_bytes()

    def disk_full(checkpoint, file):
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(RunError, match=r"last\.pt cannot be written \(No space left on device\)"):
        save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_one_sentence(tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(CHECKPOINT, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match=r"last.pt cannot be read as a checkpoint \(.*\)$"):
        read_checkpoint(path)


def test_a_file_with_code_is_not_run(tmp_path: Path):
    torch.save({"state_dict": {}, "recipe": Path}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="cannot be read"):
        read_checkpoint(tmp_path / "last.pt")


def test_a_missing_and_a_foreign_file(tmp_path: Path):
    with pytest.raises(RunError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "last.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"not written by fastvit train"):
        read_checkpoint(tmp_path / "last.pt")


def test_the_file_before_is_kept_where_it_is_wanted(tmp_path: Path):
    for step in range(3):
        save_checkpoint(CHECKPOINT | {"step": step}, tmp_path / "last.pt", keep=tmp_path / "previous.pt")
    assert [read_checkpoint(tmp_path / name)["step"] for name in ("last.pt", "previous.pt")] == [2, 1]


def test_a_flipped_bit_is_found_and_the_file_before_is_offered(tmp_path: Path):
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    for step in (1, 2):
        save_checkpoint(CHECKPOINT | {"optimizer": {}, "step": step}, last, keep=previous)
    assert read_resumable(last)["step"] == 2
    content = bytearray(last.read_bytes())
    at = content.index(torch.ones(2).numpy().tobytes())
    content[at] ^= 1
    last.write_bytes(content)
    torch.load(last)  # which does not notice
    with pytest.raises(RunError, match=r"is damaged.*go on from step 1 with --resume .*previous\.pt"):
        read_resumable(last)
    last.unlink()
    with pytest.raises(RunError, match=r"there is no checkpoint .*go on from step 1"):
        read_resumable(last)


def test_weights_alone_cannot_be_resumed(tmp_path: Path):
    """And the checkpoint before the last is not what to take instead."""
    save_checkpoint(CHECKPOINT, tmp_path / "best.pt")
    save_checkpoint(CHECKPOINT | {"optimizer": {}, "step": 1}, tmp_path / "previous.pt")
    with pytest.raises(RunError, match=r"holds weights only; resume from last.pt or previous.pt$"):
        read_resumable(tmp_path / "best.pt")
