"""The studio's server without a browser: what it serves, refuses and survives, and that the bundle is the sources'."""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from get3d_model.errors import InputError
from serving.client import ServiceError
from serving.codec import SampleRequest
from serving.studio import bundle, server
from serving.studio.bundle import CarriedMesh, carried_viewer, read_bundle, record, sources_sha256
from serving.studio.command import main
from serving.studio.server import FIELDS, MAX_BODY_BYTES, MAX_SAMPLES_UNDER_WAY, StudioServer, request_of
from tests.components.deploy_helpers import box
from tests.serving.studio_fakes import FakeClient, studio

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def running(client: FakeClient) -> Iterator[StudioServer]:
    with studio(client) as started:
        yield started


def ask(
    running: StudioServer,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.server_address[1], timeout=20)
    try:
        connection.request(
            method or ("GET" if body is None else "POST"), path, body, JSON if headers is None else headers
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def error_of(answer: tuple[int, Any, bytes]) -> str:
    text = json.loads(answer[2])["error"]
    assert "\n" not in text
    return text


def test_the_committed_bundle_is_built_from_the_sources() -> None:
    told = json.loads((bundle.STATIC / bundle.RECORD_FILE).read_text())
    assert told["files"] == record()["files"], "static/ was changed by hand; run: make web"
    if not bundle.WEB.is_dir():
        pytest.skip("the sources of the page are not here")
    assert told["sources_sha256"] == sources_sha256(), "web/ was changed, static/ was not; run: make web"


def test_the_hash_of_the_sources_sees_every_file_but_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.js").write_text("1")
    first = sources_sha256(tmp_path)
    (tmp_path / "node_modules" / "x").mkdir(parents=True)
    (tmp_path / "node_modules" / "x" / "b.js").write_text("2")
    assert sources_sha256(tmp_path) == first
    (tmp_path / "src" / "a.js").rename(tmp_path / "src" / "c.js")
    assert sources_sha256(tmp_path) != first


def test_the_bundle_is_small_licensed_and_needs_no_network() -> None:
    files = read_bundle()
    assert sum(map(len, files.values())) < 1_000_000
    script = files["studio.js"].decode()
    assert "three.js authors" in script and "Permission is hereby granted" in script
    # A namespace and the project that the licence is of are names, not addresses that are opened.
    addresses = set(re.findall(r"https?://[\w./-]+", "".join(f.decode() for f in files.values())))
    assert addresses == {"http://www.w3.org/1999/xhtml", "https://threejs.org"}


def test_pages(running: StudioServer) -> None:
    for path, name in (("/", "index.html"), ("/studio.js", "studio.js"), ("/studio.css?x=1", "studio.css")):
        status, headers, content = ask(running, path)
        assert (status, content) == (200, read_bundle()[name])
        assert headers["Content-Type"] == bundle.PAGES[name]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, content = ask(running, "/", method="HEAD")
    assert (status, content) == (200, b"") and int(headers["Content-Length"]) > 100
    assert json.loads(ask(running, "/api/info")[2]) == {"url": "triton.example:8001"}


@pytest.mark.parametrize(
    "path",
    [
        "/build.json",
        "/../server.py",
        "/..%2fserver.py",
        "//etc/passwd",
        "/static/../studio.js",
        "/%00",
        "/api/sample",
    ],
)
def test_nothing_else_is_served(running: StudioServer, path: str) -> None:
    assert error_of(ask(running, path)) == "the studio has no such page"


def test_sampling(running: StudioServer, client: FakeClient) -> None:
    wish = {"seed": [4, 5], "weights": [0.25, 0.75], "truncation_psi": 0.5, "target_triangles": 500}
    status, headers, content = ask(running, "/api/sample", json.dumps(wish).encode())
    assert (status, content, headers["Content-Type"]) == (200, box(9), "model/gltf-binary")
    assert json.loads(headers["X-Get3D-Metadata"])["milliseconds"]["extraction"] == 1.5
    expected = SampleRequest(
        (4, 5), weights=(0.25, 0.75), truncation_psi=0.5, target_triangles=500, file_format="glb"
    )
    assert client.requests == [expected]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"[" * 9000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"seed": 1, "format": "obj"}', "unknown field 'format'; the fields are seed, "),
        (b'{"seed": 1, "file_format": "obj"}', "unknown field 'file_format'"),
        (b"{}", "nothing says which geometry"),
        (b'{"seed": -1}', "out of range"),
        (b'{"seed": "7"}', "must be an integer"),
        (b'{"seed": [1, 2]}', "say by weights how to mix them"),
        (b'{"seed": 1, "truncation_psi": NaN}', "out of range"),
        (b'{"seed": 1, "texture_resolution": 100}', "power of two"),
        (b'{"seed": 1, "class_name": "\\ud800"}', "class '\\ud800' is not text"),
    ],
)
def test_bad_requests(running: StudioServer, client: FakeClient, body: bytes, reason: str) -> None:
    answer = ask(running, "/api/sample", body)
    assert answer[0] == 400 and reason in error_of(answer)
    assert client.requests == []


def test_refused_before_it_is_read(running: StudioServer, client: FakeClient) -> None:
    good = b'{"seed": 1}'
    too_long = ask(running, "/api/sample", b" " * (MAX_BODY_BYTES + 1))
    assert too_long[0] == 413
    for length in ("-1", "x", "٣", "9" * 5000):
        headers = {**JSON, "Content-Length": length.encode().decode("latin-1")}
        assert ask(running, "/api/sample", good, headers)[0] == 413
    # What a form of another site can send.
    assert ask(running, "/api/sample", good, {"Content-Type": "text/plain"})[0] == 415
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example:80", "[2001:db8::1]:80", ""):
        assert "open http://127.0.0.1:" in error_of(
            ask(running, "/api/sample", good, {**JSON, "Host": host})
        ), host
    assert client.requests == []
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080"):
        assert ask(running, "/api/sample", good, {**JSON, "Host": host})[0] == 200, host


def test_failures_of_the_server_are_one_line(running: StudioServer, client: FakeClient) -> None:
    good = b'{"seed": 1}'
    for failure, status, text in (
        (ServiceError("is not\nreachable", "UNAVAILABLE"), 502, "is not reachable"),
        (ServiceError("gave no answer within 60 s", "DEADLINE_EXCEEDED"), 504, "gave no answer within 60 s"),
        (InputError("x serves no model get3d"), 400, "x serves no model get3d"),
        (RuntimeError("own\nbug"), 500, "RuntimeError: own bug"),
    ):
        client.failure = failure
        answer = ask(running, "/api/sample", good)
        assert (answer[0], error_of(answer)) == (status, text)
    client.failure = None
    assert ask(running, "/api/sample", good)[0] == 200


def test_too_many_at_once(running: StudioServer, client: FakeClient) -> None:
    client.gate.clear()
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(running, "/api/sample", b'{"seed": 1}')[0]))
        for _ in range(MAX_SAMPLES_UNDER_WAY)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(client.requests) < MAX_SAMPLES_UNDER_WAY:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    refused = ask(running, "/api/sample", b'{"seed": 1}')
    assert refused[0] == 503 and "busy" in error_of(refused)
    assert ask(running, "/")[0] == 200, "the page itself is there"
    client.gate.set()
    for thread in threads:
        thread.join()
    assert statuses == [200] * MAX_SAMPLES_UNDER_WAY
    assert ask(running, "/api/sample", b'{"seed": 1}')[0] == 200


def test_random_requests_never_raise_anything_else() -> None:
    draw = random.Random(0)
    values = [
        None,
        True,
        -1,
        0,
        7,
        1 << 64,
        1e400,
        0.5,
        "",
        "x" * 300,
        [],
        [[]],
        [1, 2],
        [0.5, 0.5],
        [None],
        {},
    ]
    refused = 0
    for _ in range(2000):
        wish = {name: draw.choice(values) for name in draw.sample(FIELDS, draw.randint(0, 4))}
        try:
            request_of(json.dumps(wish).encode())
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 1000 < refused < 2000


def test_the_viewer_that_pages_carry_cannot_be_ended_by_what_is_in_it() -> None:
    html = carried_viewer([CarriedMesh("</script><b>", "a.glb", b"<!--</script>")])
    assert html.count("<script") == html.count("</script>") == 2 and "<!--" not in html
    data = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data)[0]["name"] == "</script><b>"


def test_command(capsys: pytest.CaptureFixture[str], running: StudioServer) -> None:
    for arguments, reason in (
        (["--url", "nonsense"], "must be host:port"),
        (["--timeout", "nan"], "--timeout must be above 0"),
        (["--token-file", "/none"], "cannot read the token"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert reason in told and told.count("\n") == 1
    for port in (running.server_address[1], 70000):
        with pytest.raises(InputError, match=r"cannot listen on 127.0.0.1:.*choose another --port"):
            server.StudioServer(FakeClient(), port=port)
