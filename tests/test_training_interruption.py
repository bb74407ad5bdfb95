"""Whatever ends a run before its time, it goes on from where it was and ends with the same bits."""

import os
import resource
import signal

import pytest

from fastvit.training.checkpoint import read_checkpoint
from launch import STEPS, assert_same_end, finish, start, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "run"
    finish(start(output))
    return output


def test_sigterm_to_all_with_data_workers(whole, tmp_path):
    """SLURM and a terminal tell every process of the group, those that read data as well."""
    output = tmp_path / "run"
    process = start(output, "data.workers=2")
    wait_for(output / "last.pt", process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"of {STEPS}; go on with --resume {output}" in errors
    assert "Traceback" not in errors
    assert 4 <= read_checkpoint(output / "last.pt")["step"] < STEPS
    finish(start(output, resume=True))
    assert_same_end(output, whole)


def test_kill_at_any_moment(whole, tmp_path):
    output = tmp_path / "run"
    process = start(output)
    wait_for(output / "previous.pt", process)
    process.kill()
    process.communicate()
    finish(start(output, resume=True))
    assert_same_end(output, whole)


def test_kill_while_saving_leaves_the_checkpoint_before(whole, tmp_path):
    output = tmp_path / "run"
    process = start(output)
    wait_for(output / "last.pt", process)
    before = (output / "last.pt").read_bytes()
    wait_for(output / ".last.pt.tmp", process)
    process.kill()
    process.communicate()
    assert (output / "last.pt").read_bytes() == before
    finish(start(output, resume=True))
    assert_same_end(output, whole)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux only")
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(whole, tmp_path):
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
    finish(start(output, resume=True))
    assert_same_end(output, whole)
