"""Mistakes in a training loop, and the tests that see them: a table of `mutations.py`."""

TRAINING = {
    "training/loaders.py": {
        "test_training_loaders.py::test_every_epoch_and_every_seed_has_a_permutation_of_its_own": [
            ("derive_seed(self.seed, Purpose.ORDER", "derive_seed(0, Purpose.ORDER"),
            ("Purpose.ORDER, self.epoch)", "Purpose.ORDER)"),
        ],
        "test_training_loaders.py::test_an_epoch_resumed_in_the_middle_gives_the_rest": [
            ("start * self.step_size", "start * self.batch_size"),
        ],
        "test_training_loaders.py::test_the_steps_of_several_processes_are_those_of_one": [
            ("self.batch_size * self.processes.rank", "self.processes.rank"),
        ],
        "test_data_streams.py::test_shards_are_read_whole_once_and_in_another_order_each_epoch[2]": [
            ("reader.batch_size = self.batch_size", "reader.batch_size = plan.batch_size"),
        ],
        "test_training_loaders.py::test_augmentation_does_not_depend_on_the_number_of_workers": [
            ("seed_cpu(self.seed, Purpose.SAMPLE, epoch, index)", "seed_cpu(self.seed, Purpose.SAMPLE, index)"),
        ],
        "test_training_loaders.py::test_augmentation_differs_between_samples_epochs_and_seeds": [
            ("seeded(self.seed, Purpose.SAMPLE, epoch, index)", "seeded(0, Purpose.SAMPLE, epoch, index)"),
        ],
    },
    "data/folder.py": {
        "test_data_images.py::test_the_files_are_torchvision_s_in_a_list_that_workers_share[folder]": [
            ("images.samples = Packed(images.samples)", "pass"),
        ],
        "test_data_images.py::test_a_class_without_validation_images_is_told[an empty folder-counted]": [
            ("allow_empty=True", "allow_empty=False"),
        ],
        "test_data_images.py::test_classes_are_in_the_order_that_is_given_and_each_has_images_to_train_on": [
            ("names = tuple(classes or [", "names = tuple(["),
            ("if unseen and (training or ", "if unseen and ("),
        ],
    },
    "training/engine.py": {
        "test_tasks_classification_teach.py::test_training_from_stored_answers_is_training_with_the_teacher": [
            ("(self.batches, epoch, start)", "(self.batches, 0, start)"),
        ],
        "test_training_engine.py::test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit": [
            ("(self.batches, epoch, start)", "(self.batches, epoch, 0)"),
            ('self.losses = LossMeter.restored(checkpoint["losses"], self.device)', "pass"),
        ],
        "test_training_engine.py::test_a_checkpoint_is_of_all_processes_and_none_leaves_before_it_is_there": [
            ('self.processes.average(list(losses["sums"].values()))', "pass"),
        ],
        "test_training_engine.py::test_an_epoch_that_a_kill_has_kept_from_the_log_is_told_once_the_run_goes_on": [
            ("log.write(self.history, self.best.epoch)  #", "log.write_files(self.history, self.best.epoch)  #"),
        ],
        "test_training_failures.py::test_a_metric_that_is_not_a_number_is_the_best_until_there_is_one": [
            ("math.isnan(self.best.value) or ", ""),
        ],
        "test_training_engine.py::test_the_losses_of_an_epoch_are_its_own": [
            ("        self.losses = LossMeter()\n        self._save_if_best()", "        self._save_if_best()"),
        ],
        "test_training_engine.py::test_kernels_are_chosen_by_the_recipe_while_it_trains": [
            ("cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark)", "cuda_kernels(tf32=True, benchmark=True)"),
        ],
        "test_training_engine.py::test_one_message_for_each_step_tells_the_processes_of_a_signal": [
            ("self._stop_if_asked(done.signal)", "self._stop_if_asked(signals.received)"),
        ],
        "test_training_engine.py::test_the_moving_average_counts_and_the_network_itself_is_evaluated_too": [
            (
                "[learner.eval_model, learner.model] if learner.ema",
                "[learner.model, learner.eval_model] if learner.ema",
            ),
        ],
        "test_training_engine.py::test_best_holds_the_evaluated_weights_of_the_best_epoch": [
            ("self.learner.eval_model.state_dict()", "self.learner.model.state_dict()"),
        ],
        "test_training_engine.py::test_with_another_number_of_processes_each_goes_on_with_what_the_first_has_seen": [
            ("statistics[:1] * self", "statistics[-1:] * self"),
        ],
    },
    "training/run_folder.py": {
        "test_training_failures.py::test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing": [
            ("(self.tensorboard, self.wandb)", "(self.tensorboard,)"),
        ],
    },
    "training/memory.py": {
        "test_training_memory.py::test_the_command_says_how_many_images_a_card_holds": [
            ("BYTES_PER_PARAMETER_OF_EMA = 4", "BYTES_PER_PARAMETER_OF_EMA = 0"),
            ("- fixed) / plain)", "- fixed) / checkpointed)"),
        ],
    },
    "training/finished.py": {
        "test_training_finished.py::test_a_run_goes_on_with_other_parts_of_a_step": [
            ("if math.prod(now) == math.prod(before) and normalized_alike and not of_stream:", "if False:"),
            (" and normalized_alike", ""),
            (" and not of_stream:", ":"),
        ],
        "test_training_finished.py::test_a_run_goes_on_only_where_an_epoch_has_as_many_steps": [
            ("if before != steps:", "if False:"),
        ],
        "test_training_finished.py::test_the_steps_of_an_epoch_are_in_every_checkpoint": [
            ('history[0]["step"] if history else steps', "steps"),
        ],
        "test_training_finished.py::test_keys_that_recipes_got_later_stop_no_run_and_are_told": [
            ("planned = merge(recipe.to_dict(), saved)", "planned = saved"),
        ],
    },
    "training/learner.py": {
        "test_training_engine.py::test_gradient_checkpointing_changes_nothing_but_memory": [
            ("    model.set_grad_checkpointing()", "    pass"),
        ],
        "test_training_learner.py::test_compiling_for_a_cpu_without_a_compiler_is_refused_at_once": [
            ("if recipe.loop.compile:", "if True:"),
            ("if recipe.loop.compile:", "if False:"),
        ],
        "test_training_learner.py::test_synchronized_batch_norm_is_refused_where_torch_has_none": [
            ('if device.type != "cuda":', "if False:"),
        ],
        "test_training_learner.py::test_a_step_is_by_the_book": [
            ("step=step + 1)", "step=step)"),
            ("self.lr_at(step)", "self.lr_at(step + 1)"),
            ("self.weight_decay_at(step)", "self.weight_decay_at(step + 1)"),
        ],
        "test_training_engine.py::test_accumulated_batches_make_the_step_of_the_whole_batch": [
            ("sum(losses.values()) / loop.accumulation", "sum(losses.values())"),
            ("loss.detach() / loop.accumulation", "loss.detach()"),
        ],
        "test_training_learner.py::test_what_is_random_depends_on_the_step_and_the_part": [
            ("Purpose.STEP, step, self", "Purpose.STEP, self"),
            ("self.processes.part(index))\n", "index)\n"),
            ("seed_everything(self.recipe.seed", "seed_everything(0"),
        ],
        "test_training_learner.py::test_all_comes_back": [
            ('self.scaler.load_state_dict(state["scaler"])', "pass"),
            ('self.ema.module.load_state_dict(state["state_dict_ema"])', "pass"),
            ('self.optimizer.load_state_dict(state["optimizer"])', "pass"),
            ("buffer.copy_(value)", "pass"),
        ],
        "test_training_failures.py::test_a_step_whose_loss_is_not_finite_leaves_no_trace": [
            ("self.buffers.restore()", "pass"),
        ],
        "test_training_learner.py::test_clipped_is_the_gradient_not_its_scaled_copy": [
            ("self.scaler.unscale_(self.optimizer)", "pass"),
        ],
    },
    "training/schedule.py": {
        "test_training_schedule.py::test_ends": [("* step / self.warmup_steps", "* (step + 1) / self.warmup_steps")],
        "test_training_schedule.py::test_cosine_equals_timm": [("(step - self.warmup_steps) /", "step /")],
        "test_training_schedule.py::test_a_warm_up_of_all_but_a_part_of_an_epoch_may_be_of_all_steps": [
            ("max(self.end_step - self.warmup_steps, 1)", "self.end_step - self.warmup_steps"),
        ],
        "test_training_schedule.py::test_other_shapes_equal_torch": [
            ("step >= milestone", "step > milestone"),
            ("steps_per_epoch,\n        start", "steps_per_epoch - 1,\n        start"),
        ],
    },
    "training/optimizer.py": {
        "test_training_optimizer.py::test_layer_decay_is_timm_s": [
            ('lr * group.get("lr_scale", 1.0)\n        if', "lr\n        if"),
        ],
        "test_training_optimizer.py::test_layer_scales_are_exempt_where_the_recipe_says_so": [
            ("config.weight_decay, no_weight_decay_list=exempt)", "config.weight_decay)"),
        ],
        "test_training_optimizer.py::test_rates_of_a_step_respect_the_groups": [
            ('if group["initial_weight_decay"]:', "if True:"),
        ],
        "test_training_optimizer.py::test_all_parameters_decay_where_the_recipe_says_so": [
            ("if config.decay_all:", "if False:"),
        ],
    },
    "training/log.py": {
        "test_training_log.py::test_losses_are_means_over_the_steps_and_add_up": [
            ("total / self.steps for", "total for"),
        ],
        "test_training_log.py::test_a_meter_goes_on_where_it_was": [
            ('meter.steps = state["steps"]', "pass"),
        ],
    },
    "training/snapshot.py": {
        "test_training_snapshot.py::test_values_come_back_whatever_happened_since": [
            ("torch._foreach_copy_(kept, tensors)", "pass"),
        ],
        "test_training_snapshot.py::test_one_call_for_each_dtype": [
            ("groups[tensor.dtype]", "groups[tensor]"),
        ],
    },
    "training/evaluation.py": {
        "test_training_distributed.py::test_every_validation_sample_counts_once": [
            ("own.merge(theirs)", "pass"),
        ],
        "test_evaluation.py::test_cudnn_tries_nothing_where_each_validation_image_has_another_size": [
            ("loop.cudnn_benchmark and not task.val_sizes_differ", "loop.cudnn_benchmark"),
        ],
    },
    "runtime/data_workers.py": {
        "test_data_workers.py::test_a_script_that_keeps_a_half_read_loader_ends_and_so_do_its_workers[exception]": [
            ("worker.kill()", "worker.terminate()"),
        ],
        "test_data_workers.py::test_workers_are_forked_also_where_python_has_a_server_for_that": [
            ('multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing', "multiprocessing"),
        ],
        "test_training_interruption.py::test_sigterm_to_all_with_data_workers": [
            ('"worker_init_fn": ignore_stop_signals,', ""),
        ],
    },
    "runtime/device.py": {
        "test_training_device.py::test_a_gpu_s_copies_are_asked_of_a_stream_of_their_own": [
            ("current.wait_stream(self.stream)", "pass"),
            ("tensor.record_stream(current)", "pass"),
        ],
        "test_training_device.py::test_all_copies_to_a_gpu_share_a_stream": [
            ("@cache\n", ""),
        ],
        "test_training_device.py::test_the_program_goes_on_during_a_copy_to_cuda_alone[mps-False]": [
            ("non_blocking=non_blocking", "non_blocking=True"),
        ],
    },
    "runtime/folders.py": {
        "test_tasks_classification_answers.py::test_a_disk_that_is_too_small_is_said_before_anything_is_written": [
            ("if free < size:", "if False:"),
        ],
    },
    "runtime/processes.py": {
        "test_training_distributed.py::test_a_process_of_slurm_that_sees_one_gpu_takes_that": [
            ("0 if torch.cuda.device_count() == 1 else local", "local"),
        ],
        "test_training_distributed.py::test_the_batches_of_a_step_have_numbers_of_their_own": [
            ("index * self.count + self.rank", "index + self.rank"),
        ],
    },
    "training/nonfinite.py": {
        "test_training_failures.py::test_float16_without_finite_gradients_ends_instead_of_skipping_every_step": [
            ("if scale < LOWEST_SCALE:", "if False:"),
        ],
        "test_training_failures.py::test_processes_that_wait_for_each_other_in_a_batch_norm_all_stop": [
            (
                'else "the batch itself"\n            if any(learner.processes.largest(finding is not None)):',
                'else "the batch itself"\n            if finding:',
            ),
            (
                "_first(modules, losses)\n            if any(learner.processes.largest(finding is not None)):",
                "_first(modules, losses)\n            if finding:",
            ),
        ],
    },
    "tasks/detection/task.py": {
        "test_tasks_detection_prediction.py::test_what_is_measured_does_not_depend_on_the_batch": [
            ("return [model([image])[0] for image in images]", "return model(images)"),
        ],
    },
    "tasks/segmentation/task.py": {
        "test_tasks_segmentation.py::test_the_loss_is_that_of_mmsegmentation_and_of_two_halves_the_mean": [
            ("total / labels.numel()", "total / (labels != UNLABELLED).sum()"),
        ],
    },
    "data/normalization.py": {
        "test_data_normalization.py::test_what_was_normalized_in_inference_mode_does_not_spoil_training": [
            ("@torch.inference_mode(False)", "@torch.inference_mode(True)"),
        ],
        "test_data_normalization.py::test_it_is_torchvision_s_bit_for_bit": [
            (".div_(255)", ".div_(256)"),
        ],
    },
    "tasks/classification/metrics.py": {
        "test_tasks_classification_details.py::test_a_process_without_images_takes_nothing_away": [
            ("max(self.num_classes, other.num_classes)", "self.num_classes"),
        ],
        "test_tasks_classification.py::test_metrics_over_uneven_batches_count_every_labelled_image_once": [
            ("counts = labels != NO_LABEL", "counts = labels == labels"),
        ],
    },
    "tasks/classification/augmentation.py": {
        "test_tasks_classification.py::test_a_batch_is_normalized_mixed_and_then_erased_as_timm_does": [
            ("        if self.mixup:\n", "        images = self._eraser(images)(images)\n        if self.mixup:\n"),
            ("max_count=config.recount, ", ""),
        ],
    },
    "tasks/classification/task.py": {
        "test_tasks_classification.py::test_the_loss_is_of_the_mixed_images_and_labels": [
            ("if labels.ndim == 1 else 0.0", ""),
        ],
        "test_tasks_classification.py::test_images_to_train_on_come_as_pixels_and_make_a_batch_in_their_own_layout": [
            ("use_prefetcher=True, ", "use_prefetcher=False, "),
        ],
    },
    "tasks/classification/distillation.py": {
        "test_tasks_classification.py::test_distillation_is_deit_s[soft]": [
            ("* config.temperature**2", ""),
        ],
        "test_tasks_classification_teach.py::test_what_is_not_stored_is_spread_evenly": [
            ("rest = (1 - probabilities", "rest = (0 * probabilities"),
        ],
    },
    "tasks/classification/teach.py": {
        "test_tasks_classification_teach.py::test_training_from_stored_answers_is_training_with_the_teacher": [
            ("step += epoch * self.loader.steps_per_epoch", "pass"),
            ("within // self.loader.batch_size)", "0)"),
            ("images, _ = self.task.augment(images, labels)", "images = self.task.normalization(images)"),
            ("record[name][first : first + len(of_batch)]", "record[name][: len(of_batch)]"),
        ],
        "test_tasks_classification_answers.py::test_a_disk_that_is_too_small_is_said_before_anything_is_written": [
            ("require_room(path.parent, len(header", "max(0, len(header"),
        ],
        "test_tasks_classification_answers.py::test_a_stream_cannot_be_repeated": [
            ("    require_repeatable(recipe, loader)\n", ""),
        ],
        "test_tasks_classification_answers.py::test_other_libraries_go_on_where_they_make_the_same_images": [
            ("        require_same_images(file, recording.loader)\n", ""),
        ],
    },
    "tasks/classification/stored.py": {
        "test_tasks_classification_teach.py::test_training_from_stored_answers_is_training_with_the_teacher": [
            ("stored.answers[first : first + len(images)]", "stored.answers[: len(images)]"),
            ("self.file.read(epoch)", "self.file.read(0)"),
        ],
        "test_tasks_classification_answers.py::test_a_changed_library_is_noticed_by_the_images": [
            ("if digest(image) != stored", "if digest(image) is stored"),
        ],
        "test_tasks_classification_answers.py::test_answers_of_fewer_epochs": [
            ("if self.file.epochs < epochs:", "if False:"),
        ],
    },
    "tasks/classification/fingerprint.py": {
        "test_tasks_classification_answers.py::test_answers_for_another_recipe_name_what_differs": [
            ('"seed": recipe["seed"],', ""),
            ("if task.augment.is_random:", "if False:"),
        ],
        "test_tasks_classification_answers.py::test_accumulation_may_differ_where_nothing_is_mixed_or_erased": [
            ("if task.augment.is_random:", "if True:"),
        ],
        "test_tasks_classification_answers.py::test_changed_mixing_or_erasing_is_noticed": [
            ("_test_digest(task, device)", "0"),
        ],
    },
    "tasks/classification/answers.py": {
        "test_tasks_classification_answers.py::test_a_truncated_a_damaged_and_a_foreign_file": [
            ("if zlib.crc32(content[:-CRC_BYTES]) != int", "if zlib.crc32(content[:-CRC_BYTES]) is int"),
        ],
        "test_tasks_classification_teach.py::test_a_recording_goes_on_after_the_last_whole_epoch": [
            ("file.seek(end)", "file.seek(0, 2)"),
        ],
        "test_tasks_classification_answers.py::test_two_recordings_into_one_file_do_not_displace_each_other_s_epochs": [
            ("if self.epochs != number:", "if False:"),
        ],
    },
}
