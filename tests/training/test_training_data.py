"""Batches are the same from memory, from files and from any number of workers, and no worker process remains."""

import gc
import hashlib
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import datasets
from labkit.training import data

SIZE = 16  # side of the crops


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Create image files that are rotated by EXIF, gray, transparent or indexed; none is square."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)

    def noise(height, width, *channels):
        return Image.fromarray(rng.integers(0, 256, (height, width, *channels), dtype=np.uint8))

    exif = Image.Exif()
    exif[0x0112] = 6
    noise(19, 40, 3).save(path / "a-turned.png", exif=exif)
    noise(33, 24).save(path / "b-gray.png")
    noise(20, 27, 4).save(path / "c-transparent.webp", lossless=True)
    noise(25, 21, 3).quantize(9).save(path / "d-indexed.png")
    noise(48, 40, 3).save(path / "e.jpg")
    return path


@pytest.fixture(scope="module")
def both(image_folder):
    in_memory, files = datasets.training_images(image_folder), datasets.training_images(image_folder, memory=0)
    assert isinstance(in_memory, datasets.PhotoSet) and isinstance(files, datasets.ImageFiles)
    return in_memory, files


def make_batches(source, first=0, steps=6, seed=3, workers=0, crop=SIZE, batch_size=4, permute_colors=True):
    return data.batches(
        source, first=first, steps=steps, batch_size=batch_size, crop=crop, permute_colors=permute_colors, seed=seed,
        device="cpu", workers=workers,
    )  # fmt: skip


def equal(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Crops ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permute", [False, True])
def test_crops_are_drawn_in_a_fixed_order_from_memory_and_from_files(both, permute):
    """NumPy cuts the reference crops. The order of draws is fixed, so later versions draw the same crops for a seed."""
    expected, g = [], generator(7)
    for index in torch.randint(len(both[0]), (30,), generator=g).tolist():
        image = both[0].images[index].numpy()
        top = torch.randint(image.shape[1] - SIZE + 1, (), generator=g).item()
        left = torch.randint(image.shape[2] - SIZE + 1, (), generator=g).item()
        mirrored, upside_down, swapped = torch.randint(2, (3,), generator=g).tolist()
        crop = image[:, top : top + SIZE, left : left + SIZE]
        crop = crop.transpose(0, 2, 1) if swapped else crop
        if permute and torch.rand((), generator=g).item() < 0.5:
            crop = crop[torch.randperm(3, generator=g).numpy()]
        crop = crop[:, ::-1] if upside_down else crop
        expected.append(crop[:, :, ::-1] if mirrored else crop)
    for images in both:
        crops = images.crops(30, SIZE, generator(7), permute)
        assert crops.dtype == torch.float32 and crops.shape == (30, 3, SIZE, SIZE)
        np.testing.assert_array_equal(crops.numpy(), np.stack(expected).astype(np.float32) / np.float32(255))
        bytes_ = images.crops_uint8(30, SIZE, generator(7), permute)
        assert bytes_.dtype == torch.uint8
        np.testing.assert_array_equal(bytes_.numpy(), np.stack(expected))


def test_images_positions_rotations_and_colors_have_the_right_distributions():
    """Each pixel encodes its origin: rows below 100, columns from 100, images from 250."""
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(100, 110), indexing="ij")
    images = [torch.stack([rows, columns, torch.full_like(rows, 250 + k)]).to(torch.uint8) for k in range(2)]
    n, seen = 6000, []
    for crop in datasets.PhotoSet(images, ["0", "1"]).crops_uint8(n, 8, generator(1), permute_colors=True).numpy():
        order = tuple(np.argsort(crop[:, 0, 0]).tolist())  # the order of the channels for row, column and image
        row, column, image_index = crop[list(order)]
        swapped = bool(row[0, 0] != row[0, 1])
        row, column = (row.T, column.T) if swapped else (row, column)
        orientation = swapped, bool(row[0, 0] > row[1, 0]), bool(column[0, 0] > column[0, 1])
        seen.append((int(image_index[0, 0]), (int(row.min()), int(column.min())), orientation, order))
    image, place, orientation, colors = zip(*seen, strict=True)
    orders = list(itertools.permutations(range(3)))
    assert_distribution(image, {250: 1 / 2, 251: 1 / 2})
    assert_distribution(place, {(top, left): 1 / 15 for top in range(5) for left in range(100, 103)})
    assert_distribution(orientation, {each: 1 / 8 for each in itertools.product([False, True], repeat=3)})
    assert_distribution(colors, {order: 1 / 12 + (order == (0, 1, 2)) / 2 for order in orders})
    assert_distribution(
        list(zip(orientation, colors, strict=True)),
        {(each, order): (1 / 12 + (order == (0, 1, 2)) / 2) / 8 for each in set(orientation) for order in orders},
    )


def assert_distribution(seen, distribution):
    """Check that Pearson's χ² is within five standard deviations of its mean."""
    assert set(seen) <= set(distribution)
    expected = {each: share * len(seen) for each, share in distribution.items()}
    statistic = sum((seen.count(each) - count) ** 2 / count for each, count in expected.items())
    freedom = len(distribution) - 1
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_the_free_memory_determines_how_images_are_read(image_folder):
    """A decoded image needs 3 bytes per pixel, whether it was a JPEG or a PNG."""
    pixels = 19 * 40 + 33 * 24 + 20 * 27 + 25 * 21 + 48 * 40
    assert isinstance(datasets.training_images(image_folder, memory=3 * pixels), datasets.PhotoSet)
    files = datasets.training_images(image_folder, memory=3 * pixels - 1)
    assert isinstance(files, datasets.ImageFiles)
    assert files.names == datasets.folder(image_folder).names == [path.name for path in files.paths]
    assert isinstance(datasets.training_images(image_folder), datasets.PhotoSet)


def test_image_files_are_a_sequence_like_photographs(both):
    in_memory, files = both
    assert equal(files, in_memory) and len(files) == 5
    assert equal(files[1:3], in_memory[1:3]) and files[1:3].names == in_memory[1:3].names
    with pytest.raises(IndexError):
        files[5]


def write_header_only(path, height, width):
    """Write a PNG that ends before its pixels."""
    Image.new("L", (width, height)).save(path)
    path.write_bytes(path.read_bytes()[:45])


def test_the_decision_reads_only_headers(tmp_path):
    write_header_only(tmp_path / "a.png", 90, 300)
    write_header_only(tmp_path / "b.png", 60, 90)
    files = datasets.training_images(tmp_path, memory=3 * 90 * 300)
    assert isinstance(files, datasets.ImageFiles)
    files.check_crop(60)
    with pytest.raises(ValueError) as error:
        files.check_crop(61)
    with pytest.raises(ValueError) as in_memory:
        datasets.PhotoSet([torch.zeros(3, 60, 90)], ["b.png"]).check_crop(61)
    assert str(error.value) == str(in_memory.value)
    assert str(error.value) == (
        "b.png is 90×60 pixels; crops of 61×61 need at least 61 pixels on each side. "
        "Use smaller crops or remove the image"
    )
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: "):
        datasets.training_images(tmp_path)  # fits into memory and is therefore decoded


def test_reading_headers_stops_when_memory_is_exceeded(tmp_path):
    write_header_only(tmp_path / "a.png", 90, 300)
    (tmp_path / "b.png").write_bytes(b"no image")
    files = datasets.training_images(tmp_path, memory=3 * 90 * 300 - 1)
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        files.check_crop(60)
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        datasets.training_images(tmp_path, memory=3 * 90 * 300)


def test_a_folder_without_images_is_reported(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        datasets.training_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no image"):
        datasets.training_images(tmp_path)


def test_an_image_that_shrinks_after_the_check_is_reported(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    for images in (datasets.folder(tmp_path), datasets.training_images(tmp_path, memory=0)):
        with pytest.raises(ValueError, match=r"a\.png is 20×10 pixels; crops of 11×11 need"):
            images.crops(1, 11, generator())


# Seeds ----------------------------------------------------------------------------------------------------------------


def test_every_seed_step_and_stream_draws_different_numbers():
    """The cases include numbers with equal sums, and seeds longer than one word."""
    numbers = [0, 1, 2, 3, 100, 2**31, 2**32 - 1]
    draws = {
        tuple(torch.rand(4, generator=data.generator_for(seed, step, stream)).tolist())
        for seed in (*numbers, 2**32, 2**40)
        for step in numbers
        for stream in (data.DATA, data.NOISE)
    }
    assert len(draws) == 9 * 7 * 2


def test_draws_of_neighboring_steps_are_independent():
    """Correlations with the next step, seed and stream are within four standard deviations of 0."""
    first = {
        key: torch.stack(
            [torch.randn(50, generator=data.generator_for(key[0], step + key[1], key[2])) for step in range(200)]
        )
        for key in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))
    }
    for key in ((0, 1, 0), (1, 0, 0), (0, 0, 1)):
        assert abs((first[0, 0, 0] * first[key]).mean()) < 4 / 10_000**0.5


def test_reseeding_clears_the_generators_state():
    """Torch's generator stores the second of two Gaussian numbers for the next call."""
    g = generator()
    for before in range(4):
        torch.randn(before, generator=g)
        assert data.reseed(g, 5, 6, data.NOISE) is g
        expected = data.generator_for(5, 6, data.NOISE)
        assert torch.equal(torch.randn(3, generator=g), torch.randn(3, generator=expected))


@pytest.mark.parametrize("name", ["seed", "step", "stream"])
def test_the_error_names_a_negative_number(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer ≥ 0, got -1"):
        data.generator_for(**{"seed": 0, "step": 0, "stream": 0, name: -1})


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_from_memory_and_from_any_number_of_workers(both, workers):
    in_memory, files = both
    expected = list(make_batches(in_memory))
    assert len({batch.numpy().tobytes() for batch in expected}) == 6
    assert all(batch.dtype == torch.float32 and batch.shape == (4, 3, SIZE, SIZE) for batch in expected)
    assert equal(make_batches(files, workers=workers), expected)
    assert equal(make_batches(files, first=4, workers=workers), expected[4:])
    assert not list(make_batches(files, first=6, workers=workers))


def test_batches_can_start_at_any_step(both):
    for source in (both[0], datasets.Banana()):
        expected = list(make_batches(source))
        for first in range(7):
            assert equal(make_batches(source, first=first), expected[first:])
        assert not equal(make_batches(source, seed=4), expected)
    points = list(make_batches(datasets.Banana(), batch_size=5))
    assert all(batch.shape == (5, 2) and batch.dtype == torch.float32 for batch in points)


def test_batches_are_crops_drawn_with_the_generator_of_the_step(both):
    for step, batch in enumerate(make_batches(both[1], steps=3)):
        assert torch.equal(batch, both[0].crops(4, SIZE, data.generator_for(3, step, data.DATA), True))
    (plain,) = make_batches(both[1], steps=1, permute_colors=False)
    assert torch.equal(plain, both[0].crops(4, SIZE, data.generator_for(3, 0, data.DATA), False))


def test_the_global_generator_of_torch_is_unchanged(both):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for source in both:
        list(make_batches(source, steps=2, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_crop_that_is_too_large_is_rejected_before_workers_start(both):
    for source in both:
        with pytest.raises(ValueError, match=r"a-turned\.png is .* crops of 20×20 need"):
            make_batches(source, crop=20, workers=1)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_reported_in_one_line(image_folder, tmp_path, workers):
    import distributed  # noqa: F401  (it makes exceptions carry tracebacks, which once kept workers alive)

    for path in image_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "b-gray.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    files = datasets.training_images(tmp_path, memory=0)
    drawn = 0
    with pytest.raises(ValueError) as error:
        for _ in make_batches(files, steps=200, batch_size=1, workers=workers):
            drawn += 1
    assert str(error.value).startswith(f"{damaged} cannot be read as an image") and "\n" not in str(error.value)
    indices = [torch.randint(5, (1,), generator=data.generator_for(3, step, data.DATA)).item() for step in range(200)]
    assert drawn == indices.index(1)  # all earlier batches were delivered
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("end", ["closed", "dropped", "finished", "never started"])
def test_workers_end_with_the_batches(both, end):
    batches = make_batches(both[1], steps=1000 if end != "finished" else 3, workers=2)
    if end != "never started":
        next(batches)
    assert len(multiprocessing.active_children()) == 2
    if end == "finished":
        assert len(list(batches)) == 2
    elif end == "closed":
        batches.close()
    else:
        del batches
        gc.collect()
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # the machine has fewer cores than the test simulates
@pytest.mark.parametrize("cores, workers", [(1, 1), (2, 1), (4, 3), (16, 4)])
def test_one_core_is_reserved_for_training(both, monkeypatch, cores, workers):
    monkeypatch.setattr(data, "cores", lambda: cores)
    batches = make_batches(both[1], workers=None)
    assert len(multiprocessing.active_children()) == workers
    batches.close()


def test_a_worker_that_is_killed_is_reported_in_one_line():
    """The error is simulated, because a real one may be raised anywhere in the main thread, even in pytest itself."""

    def lost():
        yield torch.zeros(2, dtype=torch.uint8)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.\nDetails: none") from OSError("x")

    batches = data._loaded(lost(), torch.device("cpu"))
    next(batches)
    with pytest.raises(ChildProcessError) as error:
        next(batches)
    assert "(pid 7) is killed by signal: Killed." in str(error.value) and "\n" not in str(error.value)


def test_ctrl_c_does_not_end_a_worker(both):
    """A terminal sends the signal to every process, and the training process may need more batches before it ends."""
    batches = make_batches(both[1], steps=40, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == 39


def test_datasets_can_be_pickled_for_workers(both):
    """Platforms without fork send datasets to spawned processes."""
    batches = data._Batches(both[1], 4, SIZE, True, 3)
    assert torch.equal(pickle.loads(pickle.dumps(batches)).cut(2), batches.cut(2))


ALONE = """
import hashlib, multiprocessing, sys, threading
import torch
from labkit import datasets
from labkit.training import data

def main(before):
    exec(before)
    files = datasets.training_images(sys.argv[1], memory=0)
    for batch in data.batches(
        files, first=0, steps=6, batch_size=4, crop=16, permute_colors=True, seed=3, device="cpu", workers=2
    ):
        print(hashlib.sha256(batch.numpy().tobytes()).hexdigest())

if __name__ == "__main__":
    main(sys.argv[2])
"""
SITUATIONS = {
    "processes are spawned": "multiprocessing.set_start_method('spawn')",
    "threads are at work": """
torch.set_num_threads(4)
x = torch.randn(600, 600)
def work():
    while True:
        (x @ x).sigmoid().sum()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
""",
    "there is no shared memory": """
def full(*_):
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")
torch.UntypedStorage._share_fd_cpu_ = torch.UntypedStorage._share_filename_cpu_ = full
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
def test_batches_arrive_in_a_new_process_in_difficult_situations(situation, both, image_folder, tmp_path):
    """Workers once hung in each of these situations. A spawned process needs a script file."""
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    run = [sys.executable, str(script), str(image_folder), SITUATIONS[situation]]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [hashlib.sha256(b.numpy().tobytes()).hexdigest() for b in make_batches(both[0])]
