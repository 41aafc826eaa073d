"""The settings of one training run in a sweep: names, defaults, checks, and the image folders that they refer to."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from labkit import defaults, paths
from labkit.checks import check_positive

TOYS = {"toy_1d": ("gaussian", "laplacian"), "toy_2d": ("banana", "ring"), "toy_sawbridge": ("sawbridge",)}

# The defaults are those of `labkit train`, but results must be comparable between machines, so runs use one thread,
# float32, and no worker processes. The value ... marks a setting without a default.
_COMMON: dict[str, Any] = {
    "network": defaults.NETWORK,
    "scheme": defaults.SCHEME,
    "temperature": None,
    "scale_lower_bound": None,
    "lmbda": ...,
    "steps": ...,
    "clip": defaults.CLIP,
    "ema": defaults.EMA,
    "seed": defaults.SEED,
    "threads": 1,
    "device": defaults.DEVICE,
}
TOY_SETTINGS = _COMMON | {"source": None, "hidden": 64, "batch_size": 1024, "lr": "cosine:1e-2:5e-4"}
CODEC_SETTINGS = _COMMON | {
    "size": defaults.SIZE,
    "data": None,
    "test": None,
    "coded": True,
    "start": None,
    "batch_size": defaults.BATCH_SIZE,
    "crop": defaults.CROP,
    "permute_colors": defaults.PERMUTE_COLORS,
    "lr": defaults.LR,
    "precision": "float32",
    "compile": defaults.COMPILE,
    "workers": 0,
    "save_every": defaults.SAVE_EVERY,
}
# Settings that affect where and how a run is computed, but not its result. See labkit.training.states.
WITHOUT_EFFECT = ("device", "compile", "workers", "save_every")
# Settings whose value is a name or a path; a run's hash contains what the name or path refers to instead.
REFERENCES = ("scheme", "temperature", "scale_lower_bound", "data", "test", "coded", "start")


def trainer_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that `labkit.training.Settings` accepts, with the learning rate as a schedule."""
    from labkit import schedules, training

    names = {field.name for field in dataclasses.fields(training.Settings)}
    values = {name: value for name, value in settings.items() if name in names}
    return values | {"lr": schedules.parse(str(values["lr"]))}


def image_folders(settings: dict[str, Any], split: str) -> list[Path]:
    """Return the folders of images that a run trains on or codes.

    Args:
        settings: Settings of a run. If a run has no folder of its own, it uses the bundled photographs.
        split: "data" for the one folder of training images, "test" for the folders of images to code.
    """
    bundled = {"data": "train", "test": "test"}[split]
    folders = settings[split] or str(paths.data() / "photographs" / bundled)
    return [Path(folder) for folder in ([folders] if isinstance(folders, str) else folders)]


def resolve_codec_settings(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Check the settings of an image codec, make their paths absolute, and return hashes of what the paths refer to.

    Args:
        settings: All settings of the run; paths and the network's size are updated in place.
        given: The settings that were given explicitly.

    Returns:
        Hashes of the images and of the initial weights, for the hash in the run's name.

    Raises:
        ValueError: If a setting is wrong or a folder holds no images.
    """
    from labkit import networks

    for name in ("permute_colors", "compile", "coded"):
        if not isinstance(settings[name], bool):
            raise ValueError(f"{name} must be true or false, got {settings[name]!r}")
    check_positive(save_every=settings["save_every"])
    for name in ("data", "test", "start"):  # absolute, because workers may run in a different folder
        if isinstance(settings[name], list):
            settings[name] = [str(Path(folder).resolve()) for folder in settings[name]]
        elif settings[name] is not None:
            settings[name] = str(Path(settings[name]).resolve())
    start = None
    if settings["start"] is not None:
        start, size = weights_hash(settings["start"], settings["network"])
        if given.get("size", size) != size:
            raise ValueError(f"size must be {size}, the size of {settings['start']}, got {given['size']}")
        settings["size"] = size
    elif settings["size"] not in networks.SIZES[settings["network"]]:
        sizes = ", ".join(networks.SIZES[settings["network"]])
        raise ValueError(f"size must be one of {sizes}, got {settings['size']!r}")
    folders = image_folders(settings, "test")
    test = [folder_hash(folder) for folder in folders]
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError(f"test folders must have different names, got {', '.join(map(str, folders))}")
    (data,) = (folder_hash(folder) for folder in image_folders(settings, "data"))
    uncoded = {} if settings["coded"] else {"coded": False}
    return {"data": data, "test": test if len(test) > 1 else test[0], "start": start, **uncoded}


@functools.cache
def folder_hash(folder: Path) -> str:
    """Return a hash of the names and the sizes in bytes of a folder's images.

    Raises:
        ValueError: If the folder does not exist or holds no image.
    """
    from labkit import datasets

    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in datasets.SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no images")
    return hashlib.sha256(json.dumps([(path.name, path.stat().st_size) for path in files]).encode()).hexdigest()


@functools.cache
def weights_hash(path: str, network: str) -> tuple[str, str]:
    """Return a hash of a checkpoint's weights, and the size of its network."""
    from labkit import training

    net, _ = training.load_checkpoint(path, network)
    return training.weights_hash(net), net.size


def clear_caches() -> None:
    """Forget the hashes of folders and checkpoints, which may have changed on disk."""
    folder_hash.cache_clear()
    weights_hash.cache_clear()
