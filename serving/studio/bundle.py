"""The built web bundle in `static/`: its files, the viewer as HTML for other pages, and the record of its sources.

`make web` builds it from `web/` with Vite and then writes the record (`python -m serving.studio.bundle`); what is
committed needs no npm.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from get3d_model.files import sha256_file, write_json_atomic

WEB = Path(__file__).parent / "web"
STATIC = Path(__file__).parent / "static"
RECORD_FILE = "build.json"
PAGES = {
    "index.html": "text/html; charset=utf-8",
    "studio.css": "text/css; charset=utf-8",
    "studio.js": "text/javascript; charset=utf-8",
}
"""The files of the bundle, with their MIME types."""
_BUILT = ("node_modules", "dist")


@dataclass(frozen=True)
class CarriedMesh:
    """A mesh that a page brings along. name: on its button. file: of its download."""

    name: str
    file: str
    glb: bytes


def read_bundle() -> dict[str, bytes]:
    """The files of `PAGES`."""
    return {name: (STATIC / name).read_bytes() for name in PAGES}


def carried_viewer(meshes: Sequence[CarriedMesh]) -> str:
    """HTML with the viewer and at least one mesh, without any address: works in a file that is opened from a disk."""
    files = read_bundle()
    samples = [{"name": m.name, "file": m.file, "glb": base64.b64encode(m.glb).decode()} for m in meshes]
    # Inside a script, HTML ends at the first "</" and begins something else at "<!--".
    data = json.dumps(samples).replace("<", "\\u003c")
    script = files["studio.js"].decode().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return (
        f"<style>\n{files['studio.css'].decode()}</style>\n"
        f'<div data-get3d-carried aria-label="{escape("Viewer of the samples")}">'
        f'<script type="application/json">{data}</script></div>\n'
        f"<script>\n{script}</script>\n"
    )


def sources_sha256(web: Path = WEB) -> str:
    """Of the names and contents of all files that the bundle is built from."""
    digest = hashlib.sha256()
    for path in sorted(path for path in web.rglob("*") if path.is_file()):
        name = path.relative_to(web)
        if name.parts[0] not in _BUILT:
            digest.update(f"{name.as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def record(web: Path = WEB, static: Path = STATIC) -> dict[str, object]:
    """What the record of the bundle says if it was built from these sources."""
    return {
        "sources_sha256": sources_sha256(web),
        "files": {name: sha256_file(static / name) for name in PAGES},
    }


if __name__ == "__main__":
    write_json_atomic(STATIC / RECORD_FILE, record())
    print(f"{STATIC}: {sum((STATIC / name).stat().st_size for name in PAGES) / 1e6:.2f} MB")
