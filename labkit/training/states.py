"""The state of an unfinished run on disk, from which a killed run resumes.

The state is one safetensors file next to the run's final checkpoint, with `.part` added to the name. The file holds
every tensor that a step changes. Its header holds, as JSON, the step and the identity of the run (`identity`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized

from labkit import first_edition
from labkit.datasets import ImageFiles, PhotoSet
from labkit.disk import write_whole
from labkit.networks import checkpoints
from labkit.training import data, processes
from labkit.training.trainer import Training

FORMAT = "labkit-training-1"
FREE = ("device", "workers", "compile")  # settings that a resumed run may change: they are not part of its identity


class Files:
    """The files of a run: the final checkpoint OUT, and OUT.part, from which the run resumes.

    If OUT.part exists, `training` is restored to its state. If only OUT exists, the run is finished, and its network
    gets the weights in OUT. If there are several processes, all of them read and only the first one writes.

    Args:
        training: The run, before its first step.
        out: Checkpoint of the run.
        fresh: True ignores both files and removes OUT.part.

    Attributes:
        seconds: Time that the run has taken so far.
        finished: True if OUT holds this run's result.

    Raises:
        ValueError: If OUT or OUT.part belongs to another run, or is damaged.
    """

    def __init__(self, training: Training, out: str | Path, fresh: bool = False):
        self.training, self.out, self.seconds, self.finished = training, Path(out), 0.0, False
        self.part, self.identity, self.saved = part(self.out), identity(training), 0
        self.writes = processes.ranks()[0] == 0
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            if self.writes:
                self.part.unlink(missing_ok=True)
        elif self.part.exists():
            self.seconds = self._same(self.part)["seconds"]
            load(training, self.part)
            self.saved = training.step
        elif self.out.exists():
            self.seconds = self._same(self.out)["seconds"]
            checkpoints.load_weights(training.net, self.out)
            training.net.eval()
            self.finished = True
        training.fabric.barrier()  # the first process writes only after all others have read

    def __repr__(self) -> str:
        return f"Files({str(self.out)!r}, {'finished' if self.finished else f'step {self.saved}'})"

    def _same(self, path: Path) -> dict[str, Any]:
        """Return the description of the run in a file, if it is the same run."""
        found = stored(self.out)
        texts = {"trained_on": "other images", "started_from": "other first weights", "scheme": "another scheme"}
        names = [name for name, value in self.identity.items() if value != found.get(name)]
        if names:
            differences = [texts.get(name, f"{name} {found.get(name)}, not {self.identity[name]}") for name in names]
            raise ValueError(
                f"{path} belongs to another run ({', '.join(differences)}): choose another output file, "
                "or start afresh (fresh=True, --fresh), which overwrites it"
            )
        return found

    @property
    def resumable(self) -> str:
        """A sentence that says from which state the run would resume."""
        return f"{self.part} keeps step {self.saved}: the same call or command resumes from there"

    def save(self, seconds: float) -> None:
        """Write OUT.part.

        Args:
            seconds: Time that the run has taken so far.

        Raises:
            ValueError: If the file cannot be written. The message says from which step the run can resume.
        """
        try:
            if self.writes:
                save(self.training, self.part, {**self.identity, "seconds": seconds})
        except ValueError as error:
            raise ValueError(f"{error}; {self.resumable}" if self.part.exists() else str(error)) from None
        self.saved = self.training.step

    def finish(self, seconds: float) -> None:
        """Write the checkpoint with its coder tables, and remove OUT.part.

        Args:
            seconds: Time that the run has taken.
        """
        net: Any = self.training.net
        settings = self.training.settings
        net.update()
        total = getattr(net, "info", {}).get("total_steps", 0) + settings.steps
        info = {**settings.to_dict(), **self.identity, "seconds": seconds, "total_steps": total}
        if self.writes:
            checkpoints.save_checkpoint(net, self.out, **info)
            self.part.unlink(missing_ok=True)
        self.training.fabric.barrier()  # until all processes can read the checkpoint
        net.info = checkpoints.read_info(self.out)


def part(out: Path) -> Path:
    """Return the path of the state file that belongs to a checkpoint."""
    return out.with_name(f"{out.name}.part")


def stored(out: Path) -> dict[str, Any]:
    """Return the description of the run in OUT.part, or else in OUT, with current names; empty if neither file exists.

    Raises:
        ValueError: If the file is damaged.
    """
    if part(out).exists():
        return read(part(out))
    return first_edition.modern(checkpoints.read_info(out)) if out.exists() else {}


def identity(training: Training) -> dict[str, Any]:
    """Return the JSON-compatible identity of a run: settings, scheme, data, and the weights that it starts from."""
    scheme: Any = training.net.scheme
    about = {
        **{name: value for name, value in training.settings.to_dict().items() if name not in FREE},
        "scheme": scheme.to_dict(),
        "trained_on": _data_hash(training.source),
        "started_from": checkpoints.weights_hash(training.net),
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def save(training: Training, path: Path, about: dict[str, Any]) -> None:
    """Write the state of a run, completely or not at all.

    Args:
        training: The run.
        path: File to write.
        about: Description of the run as JSON-compatible values.

    Raises:
        ValueError: If the file cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in training.tensors().items()}
    metadata = {"format": FORMAT, "state": json.dumps({**about, "step": training.step})}
    write_whole(path, serialized(tensors, metadata))


def read(path: Path) -> dict[str, Any]:
    """Return the description that was passed to `save`, and the step, with current names.

    Raises:
        ValueError: If the file is damaged or is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format', 'not stated')!r}")
        return first_edition.modern(json.loads(metadata["state"]))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} does not hold an unfinished training run: {error}") from None


def load(training: Training, path: Path) -> None:
    """Restore a run to the state that `save` wrote.

    Raises:
        ValueError: If the file holds the state of another network or optimizer.
    """
    about, tensors = read(path), training.tensors()
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(tensors):
            raise ValueError(f"{path} does not fit: it holds other tensors than this network and its optimizer")
        for name, tensor in tensors.items():
            value = file.get_tensor(name)
            if value.shape != tensor.shape:
                raise ValueError(f"{path} does not fit: {name} is {tuple(value.shape)}, not {tuple(tensor.shape)}")
            tensor.detach().copy_(value)  # in place, which preserves the memory format
    training.step = about["step"]


def _data_hash(source: data.Source) -> str:
    """Hash the names and sizes of the images: sizes are in pixels for images in memory, and in bytes for files."""
    images: list[tuple[str, Any]] = []
    if isinstance(source, PhotoSet):
        images = [(name, tuple(image.shape)) for name, image in zip(source.names, source.images, strict=True)]
    elif isinstance(source, ImageFiles):
        images = [(path.name, path.stat().st_size) for path in source.paths]
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()
