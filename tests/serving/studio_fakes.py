"""A stand-in for the gRPC client behind the studio: boxes by seed, or the failure that a test wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving.codec import SampleMetadata, SampleRequest, SampleResponse
from serving.studio.server import StudioServer
from tests.components.deploy_helpers import box

PSI = 0.65


class FakeClient:
    """class_name: of a model with classes. requests: as they came. failure: raised instead of answering. gate: waited
    for before an answer."""

    url = "triton.example:8001"

    def __init__(self, class_name: str | None = None) -> None:
        self.class_name = class_name
        self.requests: list[SampleRequest] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def sample(self, request: SampleRequest) -> SampleResponse:
        self.requests.append(request)
        self.gate.wait(20)
        if self.failure is not None:
            raise self.failure
        glb = box(request.seed if isinstance(request.seed, int) else sum(request.seed))
        return SampleResponse(
            glb,
            SampleMetadata(
                request.seed, request.truncation_psi or PSI, request.texture_resolution or 64, "glb", 8, 8, False,
                len(glb), "get3d", "12", 480.0, "ab", 1, {"networks": 3.0, "extraction": 1.5, "total": 5.0}, False,
                class_name=request.class_name or self.class_name,
            ),
        )  # fmt: skip


@contextmanager
def studio(client: FakeClient) -> Iterator[StudioServer]:
    """A studio in front of the client, on a port of its own."""
    with StudioServer(client, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            client.gate.set()
            server.shutdown()
            thread.join()
