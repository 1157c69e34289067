"""CIFAR, MNIST and Fashion-MNIST from files made here in the formats of the originals, with their own checksums."""

import functools
import gzip
import hashlib
import http.server
import pathlib
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torchvision.datasets

from sparselt.data import CIFAR10, CIFAR100, MNIST, Beton, FashionMNIST, open_dataset, source_from_record, source_record
from sparselt.data.cli import write_command
from sparselt.data.sources import downloaded
from sparselt.errors import DataError

TRAIN, TEST = 20, 6


def md5(data):
    return hashlib.md5(data).hexdigest()


def made_cifar(folder, reader, monkeypatch):
    """The files of torchvision's `reader`, and what is in them: {split: (images [N, 3, 32, 32], labels)}."""
    random, fine = np.random.default_rng(3), reader is torchvision.datasets.CIFAR100
    classes = 100 if fine else 10
    base, held = folder / reader.base_folder, {}
    base.mkdir(parents=True)
    for name, split, count in (("train_list", "train", TRAIN), ("test_list", "test", TEST)):
        files, images, labels = getattr(reader, name), [], []
        for file, _ in files:
            data = random.integers(0, 256, (count // len(files), 3072), dtype=np.uint8)
            label = random.integers(0, classes, len(data)).tolist()
            record = {"data": data, "fine_labels" if fine else "labels": label}
            (base / file).write_bytes(pickle.dumps(record, protocol=2))
            images.append(data.reshape(-1, 3, 32, 32))
            labels += label
        held[split] = (np.concatenate(images), np.array(labels))
        sums = [[file, md5((base / file).read_bytes())] for file, _ in files]
        monkeypatch.setattr(reader, name, sums)
    names = [f"kind {label}" for label in range(classes)]
    (base / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: names}, protocol=2))
    sums = {**reader.meta, "md5": md5((base / reader.meta["filename"]).read_bytes())}
    monkeypatch.setattr(reader, "meta", sums)
    return held


def made_mnist(folder, monkeypatch, source=MNIST):
    random, held = np.random.default_rng(4), {}
    raw = folder / source.reader / "raw"
    raw.mkdir(parents=True)
    for split, prefix, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        held[split] = (images[:, None], labels)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            magic = bytes([0, 0, 8, array.ndim])
            sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
            (raw / f"{prefix}-{kind}").write_bytes(magic + sides + array.tobytes())
    for name in source.files:
        monkeypatch.setitem(source.files, name, md5((raw / name).read_bytes()))
    return held


@pytest.fixture(autouse=True)
def few_images_no_package_and_no_proxy(tmp_path, monkeypatch):
    monkeypatch.setattr(downloaded, "DEBIAN_FASHION_MNIST", tmp_path / "no package")
    for source in (CIFAR10, CIFAR100, MNIST, FashionMNIST):
        monkeypatch.setattr(source, "train_count", TRAIN)
        monkeypatch.setattr(source, "test_count", TEST)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["cifar10", "cifar100", "mnist", "fashion_mnist"])
def made(request, tmp_path, monkeypatch):
    """(source, folder of its files, what is in them) for each of the four."""
    folder = tmp_path / "files"
    if "mnist" in request.param:
        source = {"mnist": MNIST, "fashion_mnist": FashionMNIST}[request.param]
        return source(str(folder)), folder, made_mnist(folder, monkeypatch, source)
    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[request.param](str(folder))
    return source, folder, made_cifar(folder, getattr(torchvision.datasets, source.reader), monkeypatch)


@pytest.fixture
def server(tmp_path):
    """A folder, and the address at which it is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{serving.server_port}/"
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_betons_hold_every_image_and_label_of_the_files(made, tmp_path, capsys):
    source, _, held = made
    write_command(source, tmp_path / "out")
    assert "Real images" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "out").require(classes=source.classes, shape=source.image_shape, field="ndarray")
    for split, (images, labels) in held.items():
        beton = Beton(dataset.path(split))
        assert np.array_equal(np.stack([beton.image(index) for index in range(len(beton))]), images)
        assert np.array_equal(beton.labels, labels)
    assert len(dataset.manifest.class_names) == source.classes


def test_normalization_standardizes_each_channel_of_the_training_split(made):
    source, _, held = made
    normalization = source.normalization()
    pixels = held["train"][0].swapaxes(0, 1).reshape(source.image_shape[0], -1) / 255
    assert np.allclose(normalization.mean, pixels.mean(axis=1), rtol=0, atol=1e-12)
    assert np.allclose(normalization.std, pixels.std(axis=1), rtol=0, atol=1e-12)


def test_record_brings_the_source_back(made):
    source, folder, _ = made
    assert source_record(source) == {"kind": source.kind, "root": str(folder)}
    assert source_from_record(source_record(source)) == source
    with pytest.raises(DataError, match="cifar10, cifar100, mnist, fashion_mnist"):
        source_from_record({"kind": "cifar1000"})


def test_a_download_that_fails_leaves_no_empty_folder(made, monkeypatch, tmp_path):
    point_to_nowhere(monkeypatch)
    with pytest.raises(DataError, match="cannot be downloaded"):
        type(made[0])(root=str(tmp_path / "new")).samples("train")
    assert not (tmp_path / "new").exists()


def test_changed_file_is_not_read(made, monkeypatch):
    source, folder, _ = made
    point_to_nowhere(monkeypatch)
    for path in folder.rglob("*"):
        if path.is_file() and ("train" in path.name or path.name == "data_batch_3"):
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(DataError, match=r"MNIST's, by its MD5|is not whole in .* cannot be downloaded"):
                source.samples("train")
            path.write_bytes(whole)
    assert len(source.samples("train")) == TRAIN


def test_wrong_number_of_images_is_refused(made, monkeypatch):
    source, _, _ = made
    monkeypatch.setattr(type(source), "train_count", 50_000)
    with pytest.raises(DataError, match=r"train images \(20, .* expected \(50000, "):
        source.samples("train")


def point_to_nowhere(monkeypatch):
    """Port 9 of this machine: refuses at once, as a machine without a network does."""
    for reader in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(reader, "url", f"http://127.0.0.1:9/{reader.filename}")
    for reader in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(reader, "mirrors", ["http://127.0.0.1:9/mnist/"])


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100, MNIST, FashionMNIST])
def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(source, tmp_path, monkeypatch):
    point_to_nowhere(monkeypatch)
    with pytest.raises(DataError) as caught:
        write_command(source(str(tmp_path / "files")), tmp_path / "out")
    for part in ("cannot be downloaded", "http://127.0.0.1:9/", str(tmp_path / "files"), "--source"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_once(name, tmp_path, server, monkeypatch):
    folder, address = server
    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name](str(tmp_path / "files"))
    reader = getattr(torchvision.datasets, source.reader)
    held = made_cifar(tmp_path / "original", reader, monkeypatch)
    with tarfile.open(folder / reader.filename, "w:gz") as archive:
        archive.add(tmp_path / "original" / reader.base_folder, reader.base_folder)
    monkeypatch.setattr(reader, "url", address + reader.filename)
    monkeypatch.setattr(reader, "tgz_md5", md5((folder / reader.filename).read_bytes()))
    assert np.array_equal(source.samples("train").images, held["train"][0])
    (folder / reader.filename).unlink()
    assert np.array_equal(type(source)(source.root).samples("test").labels, held["test"][1])


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_mnist_is_downloaded_once(source, tmp_path, server, monkeypatch):
    folder, address = server
    held = made_mnist(tmp_path / "original", monkeypatch, source)
    resources = packed(tmp_path / "original" / source.reader / "raw", folder)
    reader = getattr(torchvision.datasets, source.reader)
    monkeypatch.setattr(reader, "resources", resources)
    monkeypatch.setattr(reader, "mirrors", [address])
    assert np.array_equal(source(str(tmp_path / "files")).samples("train").images, held["train"][0])
    for path in folder.iterdir():
        path.unlink()
    assert np.array_equal(source(str(tmp_path / "files")).samples("test").labels, held["test"][1])


def packed(folder, to):
    """Compresses the files of a folder into another; their names and MD5."""
    found = []
    for path in sorted(folder.iterdir()):
        data = gzip.compress(path.read_bytes())
        (to / f"{path.name}.gz").write_bytes(data)
        found.append((f"{path.name}.gz", md5(data)))
    return found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder like that of Debian's package, and what is in its files."""
    folder = tmp_path / "package"
    folder.mkdir()
    held = made_mnist(tmp_path / "unpacked", monkeypatch, FashionMNIST)
    packed(tmp_path / "unpacked" / "FashionMNIST" / "raw", folder)
    monkeypatch.setattr(downloaded, "DEBIAN_FASHION_MNIST", folder)
    return folder, held


def test_fashion_mnist_is_read_from_the_package_without_a_network(package, tmp_path, monkeypatch):
    point_to_nowhere(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, (images, labels) in package[1].items():
        samples = FashionMNIST().samples(split)
        assert np.array_equal(samples.images, images) and np.array_equal(samples.labels, labels)
    assert FashionMNIST().class_names[9] == "Ankle boot"
    assert not (tmp_path / "cache").exists()


def test_named_folder_comes_before_the_package(package, tmp_path, monkeypatch):
    point_to_nowhere(monkeypatch)
    with pytest.raises(DataError, match="cannot be downloaded"):
        FashionMNIST(str(tmp_path / "elsewhere")).samples("train")


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_damaged_package_is_named_with_what_to_do(damage, package):
    path = package[0] / "train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:-9])
    elif damage == "changed":
        path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1] + b"\xff"))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz .*reinstall dataset-fashion-mnist"):
        FashionMNIST().samples("train")


def test_real_package_has_the_known_images():
    folder = pathlib.Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    for name, known in downloaded.FASHION_MNIST_FILES.items():
        assert md5(gzip.decompress((folder / f"{name}.gz").read_bytes())) == known


def test_download_of_another_file_is_refused(tmp_path, server, monkeypatch):
    folder, address = server
    (folder / "cifar-10-python.tar.gz").write_bytes(b"a page that asks to log in")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address + "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"cannot be downloaded.*corrupted"):
        CIFAR10(str(tmp_path / "files")).samples("train")


def test_folder_that_only_an_old_torchvision_reads_is_refused(tmp_path, monkeypatch):
    made_mnist(tmp_path, monkeypatch)
    (tmp_path / "MNIST" / "processed").mkdir()
    with pytest.raises(DataError, match="old torchvision: remove it"):
        MNIST(str(tmp_path)).samples("train")


def test_downloads_are_kept_in_the_cache_folder_if_nothing_else_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CIFAR10().folder == tmp_path / "sparselt"
    assert source_record(CIFAR10()) == {"kind": "cifar10", "root": None}
