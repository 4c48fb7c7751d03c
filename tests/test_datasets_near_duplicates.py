"""Near duplicates: copies made with Pillow are found, alike images are not, and the data say what cannot be judged."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from quantfair.datasets import ArrayImages, DatasetSpec, NearDuplicates, find_near_duplicates, load_dataset
from quantfair.datasets import near_duplicates as module
from quantfair.datasets.image_copies import COPIES

SPECS = {
    "mnist": DatasetSpec(name="mnist", task="class"),
    "cifar10": DatasetSpec(name="cifar10", task="class"),
    "utkface": DatasetSpec(name="utkface", task="gender"),
}


def with_pillow(change: Callable[[Image.Image], Image.Image], images_NCHW: np.ndarray) -> np.ndarray:
    copies = []
    for image in images_NCHW:
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        changed = np.asarray(change(picture))
        copies.append(changed.reshape(*changed.shape[:2], -1).transpose(2, 0, 1))
    return np.stack(copies)


def encode_as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def resize(
    factor: float, filter_: Image.Resampling = Image.Resampling.BILINEAR
) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        changed = picture.resize((round(factor * width), round(factor * height)), filter_)
        return changed.resize((width, height), Image.Resampling.BILINEAR)

    return change


def brighten(picture: Image.Image) -> Image.Image:
    return picture.point([min(255, round(1.05 * value)) for value in range(256)] * len(picture.getbands()))


CHANGES = {
    "jpeg 75": encode_as_jpeg(75),
    "jpeg 95": encode_as_jpeg(95),
    "10 % smaller": resize(0.9),
    "10 % larger": resize(1.1),
    "10 % smaller, Lanczos": resize(0.9, Image.Resampling.LANCZOS),
    "5 % brighter": brighten,
}


def draw_scenes(n: int, *, size: int = 32, n_channels: int = 3) -> np.ndarray:
    """Return random landscapes: coarse noise, made larger, so that neighbours are alike as in photographs."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n * n_channels, 1, 8, 8), dtype=np.uint8)
    planes = with_pillow(lambda picture: picture.resize((size, size), Image.Resampling.BICUBIC), coarse)
    return planes.reshape(n, n_channels, size, size)


def find(images_NCHW: np.ndarray) -> NearDuplicates:
    return find_near_duplicates(ArrayImages(images_NCHW))


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("name", SPECS)
def test_at_least_95_percent_of_copies_of_real_images_are_found(
    name: str, change: Callable[[Image.Image], Image.Image], real_data: Path
) -> None:
    data = load_dataset(SPECS[name])
    originals = data.images.batch(data.splits["test"][:150])
    originals = originals[np.unique([image.tobytes() for image in originals], return_index=True)[1]]
    found = find(np.concatenate([originals, with_pillow(change, originals)]))
    n = len(originals)
    assert found.reason is None
    assert (found.clusters_N[:n] == found.clusters_N[n:]).mean() >= 0.95


@pytest.mark.parametrize(("name", "n_expected"), [("mnist", 6), ("cifar10", 2)])
def test_hardly_any_real_test_image_is_marked(name: str, n_expected: int, real_data: Path) -> None:
    data = load_dataset(SPECS[name])
    found = find_near_duplicates(data.images, data.splits["test"])
    assert found.reason is None
    assert found.n_images == n_expected  # of 10,000, where 50 are allowed
    marked = np.flatnonzero(np.bincount(found.clusters_N)[found.clusters_N] > 1)
    assert len(marked) == n_expected
    if name == "cifar10":
        assert marked.tolist() == [5075, 8822]  # one photograph of a dog's head, twice
    else:
        assert set(data.labels_N[data.splits["test"][marked]]) == {1}  # strokes, not copies


def test_faces_of_one_kind_are_no_copies_of_each_other(real_data: Path) -> None:
    data = load_dataset(SPECS["utkface"])
    test = data.splits["test"]
    codes_N, names = data.groups("gender*ethnicity*age_bin")
    men = test[codes_N[test] == names.index("Male*White*(30,40]")]
    found = find_near_duplicates(data.images, men)
    assert len(men) > 200
    assert found.reason is None
    assert found.n_images is not None
    assert found.n_images <= 4
    assert find_near_duplicates(data.images, test).n_images == 25


def test_digits_of_8x8_pixels_are_not_judged() -> None:
    data = load_dataset(DatasetSpec(name="digits", task="digit"))
    found = find_near_duplicates(data.images, data.splits["test"])
    assert found.n_images is None
    assert found.reason == "only 0 of 359 copies, resized by 10 %, would be found"
    assert found.clusters_N.tolist() == list(range(359))


def test_copies_are_found_among_strokes_that_look_alike(real_data: Path) -> None:
    data = load_dataset(SPECS["mnist"])
    originals = data.images.batch(data.splits["test"])
    copies = with_pillow(resize(0.9), originals[:40])
    found = find(np.concatenate([originals, copies]))
    assert found.reason is None
    assert found.n_images == 6 + 80
    assert (found.clusters_N[:40] == found.clusters_N[10_000:]).all()


def test_strokes_that_look_alike_are_not_judged(real_data: Path) -> None:
    data = load_dataset(SPECS["mnist"])
    train = data.splits["train"]
    ones = train[data.labels_N[train] == 1]
    found = find_near_duplicates(data.images, ones)
    assert found.n_images is None
    assert found.reason == "285 of 6,067 images would be marked, and 1,907 more are almost as alike"


def vary_a_scene(spread: float) -> np.ndarray:
    """Return 300 images that vary around one scene in five ways."""
    scene, *patterns = draw_scenes(6, n_channels=1).astype(float)
    weights = np.random.default_rng(0).normal(0, spread, (300, 5))
    return np.clip(scene + np.tensordot(weights, np.array(patterns) - 128, 1), 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("spread", "n_placeholders", "reason"),
    [
        (0.02, 0, r"301 of 301 images would be copies of one"),
        (0.12, 0, r"\d+ of 301 images would be marked, and \d+ more are almost as alike"),
        (0.2, 0, r"\d+ of 301 images would be marked, and \d+ more are almost as alike"),
        (0.2, 40, r"\d+ of 341 images would be marked, and \d+ more are almost as alike"),
    ],
)
def test_images_that_vary_in_few_ways_are_not_judged(spread: float, n_placeholders: int, reason: str) -> None:
    images = vary_a_scene(spread)
    noise = np.random.default_rng(1).integers(0, 256, (1, 1, 32, 32), dtype=np.uint8)
    placeholders = [(noise * factor).astype(np.uint8) for factor in np.linspace(0.9, 1, n_placeholders)]
    found = find(np.concatenate([images, images[:1], *placeholders]))
    assert found.n_images is None
    assert found.reason is not None
    assert re.fullmatch(reason, found.reason)
    assert found.clusters_N[:301].tolist() == [*range(300), 0]  # identical images are certain


@pytest.mark.parametrize(
    ("size", "n_channels", "is_judged"), [(8, 1, False), (16, 3, False), (32, 1, True), (32, 3, True)]
)
def test_noise_is_judged_only_where_its_slow_waves_outlive_a_change_of_size(
    size: int, n_channels: int, is_judged: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, n_channels, size, size), dtype=np.uint8)
    found = find(noise)
    assert (found.reason is None) == is_judged
    assert found.n_images == (0 if is_judged else None)
    if is_judged:
        copies = with_pillow(resize(0.9), noise)
        assert find(np.concatenate([noise, copies])).clusters_N.tolist() == 2 * list(range(300))


def test_flat_images_have_identical_copies_only() -> None:
    flat = np.zeros((3, 3, 32, 32), dtype=np.uint8)
    flat[1] = 255
    found = find(np.concatenate([flat, draw_scenes(20)]))
    assert found.n_images == 0
    assert found.clusters_N[:4].tolist() == [0, 1, 0, 2]
    assert find(flat).reason == "all images are flat"
    assert find(flat).clusters_N.tolist() == [0, 1, 0]


def test_a_copy_in_other_colours_is_no_copy() -> None:
    red = draw_scenes(40, n_channels=1).repeat(3, axis=1) // np.array([1, 4, 4], dtype=np.uint8)[:, None, None]
    green = red[:, [1, 0, 2]]
    red_waves, green_waves = (module._measure_traits(images).waves_BK for images in (red, green))
    correlation_N = (red_waves * green_waves).sum(1) / module.LENGTH**2
    assert (correlation_N > module.MIN_CORRELATION).all()  # the waves alone would not tell
    assert find(np.concatenate([red, green])).n_images == 0


def test_identical_images_share_a_cluster_and_are_not_counted_as_near() -> None:
    scenes = draw_scenes(30)
    found = find(np.concatenate([scenes, scenes[::-1], scenes[3:4]]))
    assert found.clusters_N.tolist() == [*range(30), *reversed(range(30)), 3]
    assert found.n_images == 0


def test_all_images_of_a_chain_share_a_cluster_and_count() -> None:
    scenes = draw_scenes(30)
    steps = [scenes[:1]]
    for _ in range(8):
        steps.append(with_pillow(resize(0.85), steps[-1]))
    chain = np.concatenate([*steps, steps[0]])
    waves = module._measure_traits(chain).waves_BK
    assert waves[0] @ waves[8] < module.MIN_CORRELATION * module.LENGTH**2
    found = find(np.concatenate([scenes[1:], chain]))
    assert found.clusters_N.tolist() == [*range(29), *[29] * 10]
    assert found.n_images == 10  # the identical copy of the first one, too


def test_clusters_are_those_of_a_direct_calculation() -> None:
    scenes = draw_scenes(60)
    images = np.concatenate([scenes, *(with_pillow(change, scenes[:25]) for change in CHANGES.values())])
    grey_NHW = np.einsum("c,nchw->nhw", [0.299, 0.587, 0.114], images)
    waves_N88 = np.asarray(scipy.fft.dctn(grey_NHW, axes=(1, 2)))[:, :8, :8]
    waves_N64 = waves_N88.reshape(len(images), -1)
    steps = np.arange(8)
    waves_N64 *= (steps[:, None] ** 2 + steps**2).ravel()
    waves_N64 /= np.linalg.norm(waves_N64, axis=1, keepdims=True)
    near_NN = waves_N64 @ waves_N64.T >= 0.995
    n_clusters, labels_N = connected_components(coo_array(near_NN), directed=False)

    found = find(images)
    assert 0 < n_clusters < len(images)
    assert len(np.unique(found.clusters_N)) == n_clusters
    assert len({*zip(found.clusters_N.tolist(), labels_N.tolist(), strict=True)}) == n_clusters


@pytest.mark.parametrize("n_channels", [1, 3, 4])
@pytest.mark.parametrize(("block", "values_at_once"), [(1, 1), (7, 10_000), (64, 2**23)])
def test_blocks_and_chunks_of_any_size_give_the_same(
    n_channels: int, block: int, values_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = draw_scenes(60, n_channels=n_channels)
    darker = (scenes[:40] * 0.93).round().astype(np.uint8)
    images = np.concatenate([scenes, darker, scenes[5:9]])
    whole = find(images)
    traits = module._read_traits(ArrayImages(images), np.arange(len(images)))[0]
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", values_at_once)
    parts = find(images)
    assert whole.n_images == parts.n_images == 84
    assert whole.clusters_N.tolist() == parts.clusters_N.tolist()
    for one, other in zip(traits, module._read_traits(ArrayImages(images), np.arange(len(images)))[0], strict=True):
        assert np.array_equal(one, other)


def test_products_of_waves_are_exact() -> None:
    waves = module._measure_traits(draw_scenes(200, n_channels=1)).waves_BK
    assert waves.dtype == np.float32
    exact = waves.astype(np.int64) @ waves.astype(np.int64).T
    assert exact.max() < 2**24
    assert np.array_equal(waves @ waves.T, exact)


SCENES = draw_scenes(30)
IMAGES = np.concatenate([SCENES, with_pillow(resize(0.9), SCENES[:12])])


@settings(max_examples=15)
@given(st.permutations(range(len(IMAGES))))
def test_any_order_gives_the_same_clusters(order: list[int]) -> None:
    given_ = find(IMAGES)
    found = find_near_duplicates(ArrayImages(IMAGES), np.array(order))
    assert found.n_images == given_.n_images == 24
    pairs = {*zip(found.clusters_N.tolist(), given_.clusters_N[order].tolist(), strict=True)}
    assert len(pairs) == 30
    first = np.unique(found.clusters_N, return_index=True)[1]
    assert (np.diff(first) > 0).all()  # numbered as they appear


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40), st.integers(1, 5))
def test_connecting_pairs_gives_scipys_components(pairs: list[tuple[int, int]], n_parts: int) -> None:
    ones, others = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    roots = np.arange(20)
    for part in range(n_parts):
        module._connect(roots, ones[part::n_parts], others[part::n_parts])
    graph = coo_array((np.ones(len(pairs)), (ones, others)), shape=(20, 20))
    n_components, labels = connected_components(graph, directed=False)
    assert len(np.unique(roots)) == n_components
    assert len({*zip(roots.tolist(), labels.tolist(), strict=True)}) == n_components


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 47)])
def test_our_own_copies_are_those_of_torch(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, *size), dtype=np.uint8)
    small = (round(0.9 * size[0]), round(0.9 * size[1]))
    images = torch.from_numpy(pixels).float()
    for shape in (small, size):
        images = F.interpolate(images, shape, mode="bilinear", antialias=True).round().clamp(0, 255)
    assert np.abs(COPIES["resized by 10 %"](pixels).astype(float) - images.numpy()).max() <= 1


def test_large_images_are_read_a_few_at_a_time_and_their_copies_found() -> None:
    class Watched:
        def __init__(self, images_NCHW: np.ndarray):
            self.images_NCHW, self.most = images_NCHW, 0

        def __len__(self) -> int:
            return len(self.images_NCHW)

        def batch(self, indices: np.ndarray) -> np.ndarray:
            self.most = max(self.most, len(indices))
            return self.images_NCHW[indices]

    scenes = draw_scenes(12, size=400)
    images = Watched(np.concatenate([scenes, with_pillow(encode_as_jpeg(75), scenes)]))
    found = find_near_duplicates(images)
    assert found.clusters_N.tolist() == 2 * list(range(12))
    assert images.most == 2**23 // (3 * 400 * 400)


def test_a_single_image_is_alone() -> None:
    found = find_near_duplicates(ArrayImages(SCENES), np.array([7]))
    assert found.clusters_N.tolist() == [0]
    assert found.n_images == 0
