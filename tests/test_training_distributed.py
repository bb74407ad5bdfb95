"""Several processes train what one would, and none waits for another that is gone."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from fastvit.errors import RunError
from fastvit.runtime.processes import ALONE, Processes, _launched, _take_device
from fastvit.training.checkpoint import read_checkpoint, read_resumable
from launch import (
    ENVIRONMENT,
    QUICK,
    ROOT,
    STEPS,
    assert_same_end,
    finish,
    free_port,
    start,
    start_script,
    start_two,
    two_ranks,
    wait_for,
)

SMALL = "model.name=test_byobnet"  # what is tested does not depend on the network


def losses(output):
    with (output / "log.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The uninterrupted run of two processes, and what they printed."""
    output = tmp_path_factory.mktemp("two") / "run"
    return output, finish(*start_two(output, SMALL))


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_that_accumulates_the_same_halves(two, tmp_path):
    """Batch norm sees half a batch in both, so that the losses are the same but for the order of sums."""
    finish(start(tmp_path / "run", SMALL, "loop.accumulation=2"))
    assert losses(two[0]) == pytest.approx(losses(tmp_path / "run"), rel=1e-4)


@pytest.mark.slow
def test_only_the_main_process_prints(two):
    main, other = two[1]
    assert "batch 96 = 2 processes x 1 accumulated x 48" in main
    assert other == ""


@pytest.mark.slow
def test_every_validation_sample_counts_once(two):
    with (two[0] / "log.csv").open() as file:
        assert {row["val_samples"] for row in csv.DictReader(file)} == {"540"}


@pytest.mark.slow
def test_statistics_are_averaged_after_the_epoch(two):
    first, second = read_checkpoint(two[0] / "last.pt")["statistics"]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.slow
def test_sigterm_saves_and_the_resumed_run_ends_with_the_same_bits(two, tmp_path):
    output = tmp_path / "run"
    processes = start_two(output, SMALL)
    wait_for(output / "last.pt", processes[0])
    processes[1].send_signal(signal.SIGTERM)  # one of them is enough
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert "go on with --resume" in errors[0]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2
    assert 4 <= read_checkpoint(output / "last.pt")["step"] < STEPS
    finish(*start_two(output, resume=True))
    assert_same_end(output, two[0])
    assert losses(output) == pytest.approx(losses(two[0]), rel=1e-6)  # also of the epoch in which it was stopped


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_can_be_resumed(tmp_path):
    output = tmp_path / "run"
    processes = start_two(output, SMALL)
    wait_for(output / "last.pt", processes[0])
    processes[1].kill()
    errors = processes[0].communicate(timeout=60)[1]
    assert processes[0].returncode == 2
    assert "process 0 of 2 has lost another one" in errors
    assert "Go on from the last checkpoint with --resume" in errors
    assert read_resumable(output / "last.pt")["step"] >= 4


@pytest.mark.slow
def test_evaluation_in_two_processes_gives_the_figures_and_predictions_of_one(two, tmp_path):
    arguments = (str(two[0]), "--form", "fused", "--output")
    finish(*(start_script("evaluate", *arguments, str(tmp_path / "two"), variables=rank) for rank in two_ranks()))
    finish(start_script("evaluate", *arguments, str(tmp_path / "one")))
    figures = [json.loads((tmp_path / name / "evaluation.json").read_text())["fused"] for name in ("one", "two")]
    for name in ("top1", "top5", "loss", "samples"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-5)
    images = [(tmp_path / name / "predictions.csv").read_text().splitlines() for name in ("one", "two")]
    best = [[(row.split(",")[0], row.split(",")[3]) for row in rows] for rows in images]
    assert best[0] == best[1]
    assert len(best[0]) == 541


@pytest.mark.slow
def test_two_processes_train_a_network_of_one_s_own(tmp_path):
    model = "model={registered_in: ablation/networks.py, name: ablation_repmixer}"
    one = ("schedule.epochs=1", "schedule.warmup_epochs=0", "loop.batch_size=400")
    finish(*start_two(tmp_path / "run", model, *one))
    assert read_checkpoint(tmp_path / "run" / "last.pt")["step"] == 3


@pytest.mark.slow
def test_torchrun(two, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    script = ["-m", "fastvit", "train", "quickstart/digits", f"output={tmp_path / 'run'}", *QUICK, SMALL]
    subprocess.run([*command, *script], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=200, capture_output=True)
    assert_same_end(tmp_path / "run", two[0])


@pytest.mark.slow
def test_srun_starts_the_same_run(two, tmp_path):
    shared = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    ranks = ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (0, 1))
    finish(*(start(tmp_path / "run", SMALL, variables=shared | rank) for rank in ranks))
    assert_same_end(tmp_path / "run", two[0])


@pytest.mark.slow
def test_an_error_of_the_user_is_said_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("")
    processes = start_two(tmp_path / "run")
    errors = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert "is not empty, it holds mine.txt" in errors[0]
    assert "not empty" not in errors[1]


def test_the_batches_of_a_step_have_numbers_of_their_own():
    assert sorted(Processes(rank, 3).part(index) for rank in range(3) for index in range(2)) == list(range(6))


def test_a_batch_script_of_slurm_that_does_not_use_srun_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert _launched() == (ALONE, "")


def test_a_process_of_slurm_that_sees_one_gpu_takes_that(monkeypatch):
    """As with --gpus-per-task=1."""
    monkeypatch.delenv("RANK", raising=False)
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")
    for name, value in {**dict(zip(names, ("8", "5", "5", "7"), strict=True)), "MASTER_ADDR": "host"}.items():
        monkeypatch.setenv(name, value)
    for visible, local_rank in ((8, 5), (1, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        assert _launched()[0] == Processes(rank=5, count=8, local_rank=local_rank)


def test_a_launcher_that_does_not_say_which_process_of_a_machine_it_is(monkeypatch):
    """Machines have as many GPUs as processes, as with torchrun; or each process sees one; or there is none."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    for visible, local_rank in ((4, 1), (1, 0), (0, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        assert _launched() == (Processes(rank=5, count=8, local_rank=local_rank), "env://")


def test_a_process_without_a_gpu_of_its_own_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(RunError, match="this is process 5 of this machine, counted from 0, but 4 GPUs are visible"):
        _take_device(5)


def test_slurm_hosts_come_from_scontrol(monkeypatch, tmp_path):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "40002",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=r"scontrol does not tell the hosts of node\[07-08\]: set MASTER_ADDR"):
        _launched()
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$3" = "node[07-08]" ] && printf "node07\\nnode08\\n"\n')
    (tmp_path / "scontrol").chmod(0o755)
    assert _launched() == (Processes(rank=3, count=4, local_rank=1), "tcp://node07:20002")
