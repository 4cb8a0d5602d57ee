"""Finding, checking and downloading the weights, from a real HTTP server on this machine; a network of its interface."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.metrics.inception import FILE_NAME, InceptionFeatures, extract, find_weights
from tests.get3d_model.metrics.fake_inception import WIDTH, write_fake_inception


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_fake_inception(folder / "network.pt")
    return folder


@pytest.fixture(scope="module")
def sha256(served: Path) -> str:
    from get3d_model.files import sha256_file

    return sha256_file(served / "network.pt")


@pytest.fixture(scope="module")
def url(served: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_a_file_the_cache_and_nothing(served: Path, sha256: str, tmp_path: Path) -> None:
    assert find_weights(None, sha256, tmp_path) is None
    assert find_weights(str(served / "network.pt"), sha256, tmp_path) == served / "network.pt"
    (tmp_path / FILE_NAME).write_bytes((served / "network.pt").read_bytes())
    assert find_weights(None, sha256, tmp_path) == tmp_path / FILE_NAME


def test_a_download_happens_once(served: Path, sha256: str, url: str, tmp_path: Path) -> None:
    found = find_weights(f"{url}/network.pt", sha256, tmp_path)
    assert found == tmp_path / FILE_NAME
    assert found.read_bytes() == (served / "network.pt").read_bytes()
    assert find_weights("http://127.0.0.1:9/gone", sha256, tmp_path) == found


def test_what_is_wrong_is_said_in_one_line(served: Path, sha256: str, url: str, tmp_path: Path) -> None:
    for wanted, digest, message in (
        (str(tmp_path / "none.pt"), sha256, "none.pt do not exist; the Inception-v3 weights"),
        (str(served / "network.pt"), "0" * 64, f"SHA-256 is {sha256}, not 000"),
        (f"{url}/network.pt", "0" * 64, f"network.pt .*SHA-256 is {sha256}"),
        (f"{url}/none.pt", sha256, "none.pt cannot be downloaded"),
        ("http://127.0.0.1:9/network.pt", sha256, "cannot be downloaded .*refused"),
        ("http://[bad", sha256, "cannot be downloaded .*Invalid IPv6 URL"),
        ("http://a b/c", sha256, "cannot be downloaded .*control characters"),
        ("nothing://x", sha256, "cannot be downloaded .*unknown url type: nothing"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            find_weights(wanted, digest, tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*")), "nothing half-written stays"
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match="text\\.pt is no TorchScript network"):
        InceptionFeatures(tmp_path / "text.pt")


def test_features_of_images_of_any_size(served: Path) -> None:
    network = InceptionFeatures(served / "network.pt")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    whole, parts = extract(network, [images]), extract(network, [images[:2], images[2:]])
    assert whole.shape == (5, WIDTH) and whole.dtype == np.float32
    np.testing.assert_allclose(whole, parts, rtol=1e-5)
    channels_last = torch.jit.load(str(served / "network.pt"))(
        torch.from_numpy(images).permute(0, 3, 1, 2), return_features=True
    )
    np.testing.assert_allclose(whole, channels_last.detach().numpy(), rtol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        network(torch.zeros(1, 3, 4, 4))
