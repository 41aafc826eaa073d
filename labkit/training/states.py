"""A training on disk, half done: what a run that was killed goes on from.

One safetensors file beside the checkpoint that the run will end in, named as it is with `.part` behind: every tensor
that a step changes, and in its header, as JSON, the step and what the run is (`identity`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from labkit.datasets import ImageFiles, PhotoSet
from labkit.disk import write_whole
from labkit.networks import checkpoints
from labkit.training import data, processes
from labkit.training.trainer import Training

FORMAT = "labkit-training-1"
FREE = ("device", "workers", "compile")  # settings that say where and how, not what: a run may go on with others


class Files:
    """The checkpoint that a run will end in, OUT, and what it goes on from meanwhile, OUT.part.

    Puts `training` back to where OUT.part has it, or gives its network the weights of OUT where that is this run's
    already. fresh: does neither. about: what the run is, as JSON holds it; seconds: that it has taken so far; finished:
    OUT was there.

    Of several processes all read, and the first one writes: OUT lies where all of them find it.

    Raises ValueError where OUT or OUT.part are another run's, and for a file that is damaged.
    """

    def __init__(self, training: Training, out: str | Path, fresh: bool = False):
        self.training, self.out, self.seconds, self.finished = training, Path(out), 0.0, False
        self.part = self.out.with_name(f"{self.out.name}.part")
        self.about, self.saved = identity(training), 0
        self.writes = processes.ranks()[0] == 0
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            if self.writes:
                self.part.unlink(missing_ok=True)
        elif self.part.exists():
            self.seconds = self._same(self.part, read(self.part))["seconds"]
            load(training, self.part)
            self.saved = training.step
        elif self.out.exists():
            there = checkpoints.read_info(self.out)
            self.seconds = self._same(self.out, there)["seconds"]
            checkpoints.load_weights(training.net, self.out)
            training.net.info, self.finished = there, True
            training.net.eval()
        training.fabric.barrier()  # until all have read what the first may write now

    def _same(self, path: Path, there: dict[str, Any]) -> dict[str, Any]:
        words = {"trained_on": "other images", "started_from": "other first weights", "scheme": "another scheme"}
        names = [name for name, value in self.about.items() if value != there.get(name)]
        if names:
            told = ", ".join(words.get(name) or f"{name} {there.get(name)}, not {self.about[name]}" for name in names)
            raise ValueError(
                f"{path} is another run's ({told}): name another file to write, or start afresh, which overwrites it"
            )
        return there

    @property
    def kept(self) -> str:
        """In words, what would be gone on from."""
        return f"{self.part} keeps step {self.saved}: the same call or command goes on from there"

    def save(self, seconds: float) -> None:
        """Write what the run goes on from after so many seconds. Raises ValueError naming the file, with `kept`."""
        try:
            if self.writes:
                save(self.training, self.part, {**self.about, "seconds": seconds})
        except ValueError as error:
            raise ValueError(f"{error}; {self.kept}" if self.part.exists() else str(error)) from None
        self.saved = self.training.step

    def finish(self, seconds: float) -> None:
        """Write the checkpoint, coder tables included."""
        net: Any = self.training.net
        settings = self.training.settings
        net.update()
        total = getattr(net, "info", {}).get("total_steps", 0) + settings.steps
        info = {**settings.to_dict(), **self.about, "seconds": seconds, "total_steps": total}
        if self.writes:
            checkpoints.save_checkpoint(net, self.out, **info)
            self.part.unlink(missing_ok=True)
        self.training.fabric.barrier()  # until the checkpoint is there for all
        net.info = checkpoints.read_info(self.out)


def identity(training: Training) -> dict[str, Any]:
    """What makes a run this run, as JSON holds it: settings, scheme, data, and the weights that it starts from."""
    scheme: Any = training.net.scheme
    about = {
        **{name: value for name, value in training.settings.to_dict().items() if name not in FREE},
        "scheme": scheme.to_dict(),
        "trained_on": _data_hash(training.source),
        "started_from": checkpoints.weights_hash(training.net),
    }
    return json.loads(json.dumps(about))


def save(training: Training, path: Path, about: dict[str, Any]) -> None:
    """Write a training's state, whole or not at all. Raises ValueError naming the file."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in training.tensors().items()}
    metadata = {"format": FORMAT, "state": json.dumps({**about, "step": training.step})}
    write_whole(path, serialized(tensors, metadata))


def read(path: Path) -> dict[str, Any]:
    """What `save` was given, and the step. Raises ValueError for a file that is damaged or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format', 'not stated')!r}")
        return json.loads(metadata["state"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no training of labkit's to go on with: {error}") from None


def load(training: Training, path: Path) -> None:
    """Put a training back to where `save` found it. Raises ValueError where the file does not fit."""
    about, tensors = read(path), training.tensors()
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise ValueError(f"{path} does not fit: it holds other tensors than this network and its optimizer")
        for name, tensor in tensors.items():
            stored = file.get_tensor(name)
            if stored.shape != tensor.shape:
                raise ValueError(f"{path} does not fit: {name} is {tuple(stored.shape)}, not {tuple(tensor.shape)}")
            tensor.detach().copy_(stored)  # in place: the layout stays the training's
    training.step = about["step"]


def _data_hash(source: data.Source) -> str:
    """Of the names of images and their sizes, in pixels where they are in memory and in bytes on the disk."""
    about: list[tuple[str, Any]] = []
    if isinstance(source, PhotoSet):
        about = [(name, tuple(image.shape)) for name, image in zip(source.names, source.images, strict=True)]
    elif isinstance(source, ImageFiles):
        about = [(path.name, path.stat().st_size) for path in source.paths]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
