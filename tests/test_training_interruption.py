"""Whatever ends a run before its time, it can go on; that it ends with the same bits is shown once, after a kill."""

import os
import resource
import signal

import pytest

from fastvit.training.checkpoint import read_resumable
from launch import STEPS, assert_same_end, finish, start, wait_for

pytestmark = pytest.mark.slow


def test_sigterm_to_all_with_data_workers(tmp_path):
    """SLURM and a terminal tell every process of the group, those that read data as well."""
    output = tmp_path / "run"
    process = start(output, "data.workers=2")
    wait_for(output / "last.pt", process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"of {STEPS}; go on with --resume {output}" in errors
    assert "Traceback" not in errors
    assert 4 <= read_resumable(output / "last.pt")["step"] < STEPS


def test_kill_at_any_moment(tmp_path):
    output, whole = tmp_path / "run", tmp_path / "whole"
    process = start(output)
    wait_for(output / "previous.pt", process)
    process.kill()
    process.communicate()
    finish(start(output, resume=True))
    finish(start(whole))
    assert_same_end(output, whole)


def test_kill_while_saving_leaves_the_checkpoint_before(tmp_path):
    output = tmp_path / "run"
    process = start(output)
    wait_for(output / "last.pt", process)
    before = (output / "last.pt").read_bytes()
    wait_for(output / ".last.pt.tmp", process)
    process.kill()
    process.communicate()
    assert (output / "last.pt").read_bytes() == before
    assert read_resumable(output / "last.pt")["step"] > 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(tmp_path):
    output = tmp_path / "run"
    process = start(output)
    wait_for(output / "last.pt", process)
    before = (output / "last.pt").read_bytes()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "last.pt cannot be written" in errors
    assert (output / "last.pt").read_bytes() == before
    assert not (output / ".last.pt.tmp").exists()
