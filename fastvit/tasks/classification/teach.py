"""Running a teacher once over the images that students will see, and keeping its answers."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fastvit.config import differences
from fastvit.errors import RecipeError, RunError, RunStopped
from fastvit.runtime.device import BatchMover, autocast, best_device, cuda_kernels
from fastvit.runtime.folders import require_room
from fastvit.runtime.processes import ALONE, Processes
from fastvit.runtime.randomness import Purpose, seed_everything
from fastvit.runtime.signals import StopSignals
from fastvit.tasks.classification.answers import AnswersFile, Epoch, Header
from fastvit.tasks.classification.distillation import answers_of, describe_teacher
from fastvit.tasks.classification.fingerprint import digest, fingerprint, made_with, require_repeatable
from fastvit.tasks.classification.stored import checked_images, other_images
from fastvit.tasks.classification.task import Classification
from fastvit.training.loaders import SampleLoader, loader_of
from fastvit.training.log import say

SOFT_CLASSES = 10  # the most probable ones, which are kept of soft answers


def teach(task: Classification, path: Path, *, processes: Processes = ALONE) -> AnswersFile:
    """Write a teacher's answers to all images that a recipe trains on, or go on with writing them.

    Args:
        path: the file. If it is there, of the same teacher and the same images, the epochs that it lacks are added.
        processes: this process among those that share the work.

    Raises:
        UserError: the recipe has no teacher, the data cannot be repeated, the file is of something else or of other
            images, another process writes it, or the disk is too small.
        RunStopped: SIGTERM or SIGINT has come. Whole epochs are kept.
    """
    recipe = task.recipe
    if not recipe.distillation or not recipe.distillation.teacher:
        raise RecipeError(
            "distillation.teacher is missing: take a recipe with one, as classification/fastvit_t8_distill"
        )
    loader = loader_of(task, task.open_data("train"), processes, best_device(processes.local_rank))
    require_repeatable(recipe, loader)
    recording = Recording(task, loader, processes)
    file = processes.on_main(lambda: open_file(path, recording))
    recording.add_to(file)
    return file


def open_file(path: Path, recording: "Recording") -> AnswersFile:
    """The file to add to, on a disk with room for all epochs; says how large it will be."""
    header, epochs = recording.header, recording.recipe.total_epochs
    if path.exists():
        file = AnswersFile(path)
        require_same(file.header, header, path)
        require_same_images(file, recording.loader)
        require_room(path.parent, file.size_with(epochs) - file.size_with(file.epochs))
    else:
        require_room(path.parent, len(header.encoded()) + epochs * header.record_bytes)
        file = AnswersFile.create(path, header)
    say(
        f"{path}: {file.size_with(epochs):,} bytes for {epochs} epochs of {header.epoch_images:,} images, of which "
        f"{file.epochs} are there"
    )
    return file


def require_same(there: Header, own: Header, path: Path) -> None:
    """Raise RunError where the answers of a file are to another recipe's images, or of another teacher."""
    if different := differences(there.identity, replace(own, teacher=there.known_of(own.teacher)).identity):
        raise RunError(f"{path} has answers for another recipe; these differ: {'; '.join(different)}")


def require_same_images(file: AnswersFile, loader: SampleLoader) -> None:
    """Raise RunError where the last epoch of a file is of other images than are made here by the same recipe.

    Students would find out in the first epoch that was added, days later.
    """
    if not (last := file.epochs):
        return
    images = [image for image, _ in loader.samples(last - 1, file.header.checked)]
    if list(map(digest, images)) != file.read(last - 1).digests:
        raise RunError(f"{other_images(file, last - 1)}; go on with what was there, or write another file")


class Recording:
    """A teacher that is asked about the images of one epoch after the other."""

    def __init__(self, task: Classification, loader: SampleLoader, processes: Processes):
        self.task, self.recipe, self.loader, self.processes = task, task.recipe, loader, processes
        self.device = best_device(processes.local_rank)
        self.move = BatchMover(self.device, channels_last=self.recipe.loop.channels_last)
        distillation, num_classes = self.recipe.distillation, self.recipe.data.num_classes
        self.header = Header(
            images=fingerprint(task, loader, self.device),
            teacher=describe_teacher(distillation.teacher),
            kind=distillation.kind,
            classes=1 if distillation.kind == "hard" else min(SOFT_CLASSES, num_classes),
            temperature=distillation.temperature,
            num_classes=num_classes,
            epoch_images=loader.steps_per_epoch * loader.step_size,
            made_with=made_with(),
        )
        self.teacher = task.build_teacher(self.device)

    def add_to(self, file: AnswersFile) -> None:
        """Write the epochs that a file lacks."""
        done, epochs, loop = file.epochs, self.recipe.total_epochs, self.recipe.loop
        silent = not self.processes.is_main or not sys.stderr.isatty()
        size = self.header.epoch_images
        bar = tqdm(total=epochs * size, initial=done * size, unit="images", unit_scale=True, disable=silent)
        with StopSignals() as signals, cuda_kernels(tf32=loop.tf32, benchmark=loop.cudnn_benchmark), bar:
            for number in range(done, epochs):
                epoch = self._epoch(number, signals, bar)
                self.processes.on_main(lambda number=number, epoch=epoch: file.append(number, epoch))
                if self.processes.is_main:
                    say(f"epoch {number + 1}/{epochs} is in {file.path}")

    def _epoch(self, number: int, signals: StopSignals, bar: tqdm) -> Epoch:
        """The answers to all images of an epoch, by all processes."""
        firsts, own = [], []  # position in the epoch of each batch's first image, answers to the batch
        digests: dict[int, bytes] = {}  # of images, by position
        batches = self.loader.steps_per_epoch * self.recipe.loop.accumulation
        for first, batch in islice(self.loader.placed(number), batches):
            digests |= {at: digest(image) for at, image in checked_images(self.header, first, batch[0])}
            firsts.append(first)
            own.append(self._answers(number, first, batch))
            bar.update(self.loader.batch_size * self.processes.count)
            self._stop_if_asked(signals, number)
        stacked = [torch.stack(each).cpu() for each in zip(*own, strict=True)]  # (batches, B, k) each
        return self._joined(self.processes.gather((firsts, stacked, digests)))

    @torch.no_grad()
    def _answers(self, epoch: int, first: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """(B, k) classes and, if soft, (B, k) probabilities, of a batch that is seen as in training."""
        step, within = divmod(first, self.loader.step_size)
        step += epoch * self.loader.steps_per_epoch
        images, labels = self.move(batch)
        seed_everything(self.recipe.seed, Purpose.STEP, step, within // self.loader.batch_size)
        with autocast(self.device, self.recipe.loop.precision):
            images, _ = self.task.augment(images, labels)
            said = answers_of(self.recipe.distillation, self.teacher(images))
        if self.header.kind == "hard":
            return (said[:, None],)
        probabilities, classes = said.topk(self.header.classes)
        return classes, probabilities

    def _joined(self, parts: Iterable[tuple[list[int], list[Tensor], dict[int, bytes]]]) -> Epoch:
        """The whole epoch, from what each process has of it."""
        record = np.zeros(self.header.epoch_images, self.header.dtype)
        digests: dict[int, bytes] = {}
        for firsts, stacked, some_digests in parts:
            digests |= some_digests
            for name, values in zip(record.dtype.names, stacked, strict=True):
                for first, of_batch in zip(firsts, values.numpy(), strict=True):
                    record[name][first : first + len(of_batch)] = of_batch
        return Epoch(record, [digests[position] for position in self.header.checked])

    def _stop_if_asked(self, signals: StopSignals, epoch: int) -> None:
        (signal,) = self.processes.largest(signals.received)
        if signal:
            raise RunStopped(f"stopped in epoch {epoch + 1}; the same command goes on from its beginning", signal)
