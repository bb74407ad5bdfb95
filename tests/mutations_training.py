"""Do the tests see a training loop that is wrong? Each row breaks one line in a copy, and names the test that fails.

    python tests/mutations_training.py                 all rows
    python tests/mutations_training.py learner.py ema   those that name one of these

A test that passes on a broken package is worth nothing. The rows also say which test stands for which line of code.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("fastvit", "configs", "tests", "pyproject.toml")


class Mutation(NamedTuple):
    """In `file` of the package, `old` becomes `new`; `test` is test_<file>.py::test_<name> without its `test_`s."""

    file: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())} ({self.test})"


# file of the package: (text, what it becomes, the test that sees it)
ROWS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "training/loaders.py": (
        # the order of the samples, and the augmentation of each
        ("derive_seed(self.seed, Purpose.ORDER", "derive_seed(0, Purpose.ORDER", "training_loaders::every_epoch_and_every_seed_has_a_permutation_of_its_own"),
        ("Purpose.ORDER, self.epoch)", "Purpose.ORDER)", "training_loaders::every_epoch_and_every_seed_has_a_permutation_of_its_own"),
        ("start * self.step_size", "start * self.batch_size", "training_loaders::an_epoch_resumed_in_the_middle_gives_the_rest"),
        ("self.batch_size * self.processes.rank", "self.processes.rank", "training_loaders::the_steps_of_several_processes_are_those_of_one"),
        ("seed_cpu(self.seed, Purpose.SAMPLE, epoch, index)", "seed_cpu(self.seed, Purpose.SAMPLE, index)", "training_loaders::augmentation_does_not_depend_on_the_number_of_workers"),
        ("seeded(self.seed, Purpose.SAMPLE, epoch, index)", "seeded(0, Purpose.SAMPLE, epoch, index)", "training_loaders::augmentation_differs_between_samples_epochs_and_seeds"),
    ),
    "training/engine.py": (
        ("(self.batches, epoch, start)", "(self.batches, 0, start)", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("(self.batches, epoch, start)", "(self.batches, epoch, 0)", "training_engine::a_resumed_run_equals_the_uninterrupted_one_bit_for_bit"),
        ("        self.losses = LossMeter()\n        self._save_if_best()", "        self._save_if_best()", "training_engine::the_losses_of_an_epoch_are_its_own"),
        ('self.losses = LossMeter.restored(checkpoint["losses"], self.device)', "pass", "training_engine::a_resumed_run_equals_the_uninterrupted_one_bit_for_bit"),
        ("cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark)", "cuda_kernels(tf32=True, benchmark=True)", "training_engine::kernels_are_chosen_by_the_recipe_while_it_trains"),
        ("self._stop_if_asked(done.signal)", "self._stop_if_asked(signals.received)", "training_engine::one_message_for_each_step_tells_the_processes_of_a_signal"),
        ("[learner.eval_model, learner.model] if learner.ema", "[learner.model, learner.eval_model] if learner.ema", "training_engine::the_moving_average_counts_and_the_network_itself_is_evaluated_too"),
    ),
    "training/learner.py": (
        ("step=step + 1)", "step=step)", "training_learner::a_step_is_by_the_book"),
        ("self.lr_at(step)", "self.lr_at(step + 1)", "training_learner::a_step_is_by_the_book"),
        ("self.weight_decay_at(step)", "self.weight_decay_at(step + 1)", "training_learner::a_step_is_by_the_book"),
        ("sum(losses.values()) / loop.accumulation", "sum(losses.values())", "training_engine::accumulated_batches_make_the_step_of_the_whole_batch"),
        ("loss.detach() / loop.accumulation", "loss.detach()", "training_engine::accumulated_batches_make_the_step_of_the_whole_batch"),
        ("Purpose.STEP, step, self", "Purpose.STEP, self", "training_learner::what_is_random_depends_on_the_step_and_the_part"),
        ("self.processes.part(index))\n", "index)\n", "training_learner::what_is_random_depends_on_the_step_and_the_part"),
        ("seed_everything(self.recipe.seed", "seed_everything(0", "training_learner::what_is_random_depends_on_the_step_and_the_part"),
        ('self.scaler.load_state_dict(state["scaler"])', "pass", "training_learner::all_comes_back"),
        ('self.ema.module.load_state_dict(state["state_dict_ema"])', "pass", "training_learner::all_comes_back"),
        ('self.optimizer.load_state_dict(state["optimizer"])', "pass", "training_learner::all_comes_back"),
        ("buffer.copy_(value)", "pass", "training_learner::all_comes_back"),
        ("self.buffers.restore()", "pass", "training_engine::a_step_whose_loss_is_not_finite_leaves_no_trace"),
        ("self.scaler.unscale_(self.optimizer)", "pass", "training_learner::clipped_is_the_gradient_not_its_scaled_copy"),
    ),
    "training/schedule.py": (
        ("* step / self.warmup_steps", "* (step + 1) / self.warmup_steps", "training_schedule::ends"),
        ("(step - self.warmup_steps) /", "step /", "training_schedule::has_no_jumps"),
        ("step >= milestone", "step > milestone", "training_schedule::other_shapes_equal_torch"),
        ("config.epochs * steps_per_epoch,\n        start", "(config.epochs * steps_per_epoch) - 1,\n        start", "training_schedule::cosine_equals_timm"),
    ),
    "training/optimizer.py": (
        ("config.weight_decay, no_weight_decay_list=exempt)", "config.weight_decay)", "training_optimizer::layer_scales_are_exempt_where_the_recipe_says_so"),
        ('if group["initial_weight_decay"]:', "if True:", "training_optimizer::rates_of_a_step_respect_the_groups"),
        ("if config.decay_all:", "if False:", "training_optimizer::all_parameters_decay_where_the_recipe_says_so"),
        ('lr * group.get("lr_scale", 1.0)\n        if', "lr\n        if", "training_optimizer::rates_of_a_step_respect_the_groups"),
    ),
    "training/log.py": (
        ("total / self.steps for", "total for", "training_log::losses_are_means_over_the_steps_and_add_up"),
        ('meter.steps = state["steps"]', "pass", "training_log::a_meter_goes_on_where_it_was"),
    ),
    "training/snapshot.py": (
        ("torch._foreach_copy_(kept, tensors)", "pass", "training_snapshot::values_come_back_whatever_happened_since"),
        ("groups[tensor.dtype]", "groups[tensor]", "training_snapshot::one_call_for_each_dtype"),
    ),
    "training/evaluation.py": (
        ("own.merge(theirs)", "pass", "training_distributed::every_validation_sample_counts_once"),
    ),
    "runtime/data_workers.py": (
        ("worker.kill()", "worker.terminate()", "data_workers::a_script_that_keeps_a_half_read_loader_ends_and_so_do_its_workers[exception]"),
        ('"worker_init_fn": ignore_stop_signals,', "", "training_interruption::sigterm_to_all_with_data_workers"),
    ),
    "runtime/device.py": (
        ("current.wait_stream(self.stream)", "pass", "training_device::a_gpu_s_copies_are_asked_of_a_stream_of_their_own"),
        ("tensor.record_stream(current)", "pass", "training_device::a_gpu_s_copies_are_asked_of_a_stream_of_their_own"),
    ),
    "runtime/processes.py": (
        ("0 if torch.cuda.device_count() == 1 else local", "local", "training_distributed::a_process_of_slurm_that_sees_one_gpu_takes_that"),
        ("index * self.count + self.rank", "index + self.rank", "tasks_classification_teach::processes_and_accumulated_parts_see_the_same_images"),
        ("    end_workers()\n", "", "data_workers::a_run_that_fails_within_an_epoch_ends[2]"),
    ),
    "data/normalization.py": (
        ("@torch.inference_mode(False)", "@torch.inference_mode(True)", "data_normalization::what_was_normalized_in_inference_mode_does_not_spoil_training"),
        (".div_(255)", ".div_(256)", "data_normalization::it_is_torchvision_s_bit_for_bit"),
    ),
    "tasks/classification/metrics.py": (
        ("counts = labels != NO_LABEL", "counts = labels == labels", "tasks_classification::metrics_over_uneven_batches_count_every_labelled_image_once"),
    ),
    "tasks/classification/augmentation.py": (
        ("        images = self.normalization(images)\n        if self.mixup:", "        images = self.normalization(images)\n        if self.config.reprob:\n            images = self._eraser(images)(images)\n        if self.mixup:", "tasks_classification::a_batch_is_normalized_mixed_and_then_erased_as_timm_does"),
        ("max_count=config.recount, ", "", "tasks_classification::a_batch_is_normalized_mixed_and_then_erased_as_timm_does"),
    ),
    "tasks/classification/task.py": (
        ("if labels.ndim == 1 else 0.0", "", "tasks_classification::the_loss_is_of_the_mixed_images_and_labels"),
        ("use_prefetcher=True, ", "use_prefetcher=False, ", "tasks_classification::images_to_train_on_come_as_pixels_and_make_a_batch_in_their_own_layout"),
    ),
    "tasks/classification/distillation.py": (
        ("* config.temperature**2", "", "tasks_classification::distillation_is_deit_s[soft]"),
        ("rest = (1 - probabilities", "rest = (0 * probabilities", "tasks_classification_teach::what_is_not_stored_is_spread_evenly"),
    ),
    "tasks/classification/teach.py": (
        ("step += epoch * self.loader.steps_per_epoch", "pass", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("within // self.loader.batch_size)", "0)", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("images, _ = self.task.augment(images, labels)", "images = self.task.normalization(images)", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("record[name][first : first + len(of_batch)]", "record[name][: len(of_batch)]", "tasks_classification_teach::processes_and_accumulated_parts_see_the_same_images"),
        ("        require_room(path.parent, len(header.encoded())", "        len((path.parent, len(header.encoded()))[:0]) or (0", "tasks_classification_teach::a_disk_that_is_too_small_is_said_before_anything_is_written"),
        ("    require_repeatable(recipe, loader)\n", "", "tasks_classification_teach::a_stream_cannot_be_repeated"),
    ),
    "tasks/classification/stored.py": (
        ("stored.answers[first : first + len(images)]", "stored.answers[: len(images)]", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("self.file.read(epoch)", "self.file.read(0)", "tasks_classification_teach::training_from_stored_answers_is_training_with_the_teacher"),
        ("if digest(image) != stored", "if digest(image) is stored", "tasks_classification_teach::a_changed_library_is_noticed_by_the_images"),
        ("if self.file.epochs < epochs:", "if False:", "tasks_classification_teach::answers_of_fewer_epochs"),
    ),
    "tasks/classification/fingerprint.py": (
        ('"seed": recipe["seed"],', "", "tasks_classification_teach::answers_for_another_recipe_name_what_differs"),
        ("if task.augment.is_random:", "if False:", "tasks_classification_teach::answers_for_another_recipe_name_what_differs"),
        ("if task.augment.is_random:", "if True:", "tasks_classification_teach::accumulation_may_differ_where_nothing_is_mixed_or_erased"),
        ("_test_digest(task, device)", "0", "tasks_classification_teach::changed_mixing_or_erasing_is_noticed"),
    ),
    "tasks/classification/answers.py": (
        ("if zlib.crc32(content[:-CRC_BYTES]) != int", "if zlib.crc32(content[:-CRC_BYTES]) is int", "tasks_classification_teach::a_truncated_a_damaged_and_a_foreign_file"),
        ("file.truncate(end)", "pass", "tasks_classification_teach::a_recording_goes_on_after_the_last_whole_epoch"),
        ("if free < size:", "if False:", "tasks_classification_teach::a_disk_that_is_too_small_is_said_before_anything_is_written"),
    ),
}


def main(words: Sequence[str]) -> None:
    rows = [Mutation(file, *row) for file, rows in ROWS.items() for row in rows]
    rows = [row for row in rows if not words or any(word in str(row) for word in words)]
    unseen = []
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        for row in rows:
            seen = is_seen(row, copy)
            print(f"{'seen    ' if seen else 'NOT SEEN'} {row}", flush=True)
            unseen += [] if seen else [row]
    sys.exit(f"{len(unseen)} of {len(rows)} are not seen" if unseen else None)


def is_seen(row: Mutation, copy: Path) -> bool:
    """Whether the test fails in a copy of the project that is broken so."""
    path = copy / "fastvit" / row.file
    text = path.read_text(encoding="utf-8")
    if text.count(row.old) != 1:
        sys.exit(f"{row}: the text is {text.count(row.old)} times in {row.file}, and must be there once")
    path.write_text(text.replace(row.old, row.new), encoding="utf-8")
    file, _, name = row.test.partition("::")
    test = f"tests/test_{file}.py::test_{name}"
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", test]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):  # 1: a test failed
        sys.exit(f"{row}: pytest could not run it\n{done.stdout}{done.stderr}")
    return done.returncode == 1


if __name__ == "__main__":
    main(sys.argv[1:])
