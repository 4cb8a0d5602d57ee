"""Stands in for Blender's driver: the same lines in and out, pictures of one colour. A mesh's extras ask for trouble."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

from PIL import Image

MARK = "get3d-blender "


def extras(path: str) -> dict[str, str]:
    content = Path(path).read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    return json.loads(content[20 : 20 + length])["asset"]["extras"]


def main() -> None:
    parent, engine, samples, threads = sys.argv[sys.argv.index("--") + 1 :]
    assert int(parent) == os.getppid() and threads == "1"
    print("Blender 9.9.9 greets")
    if samples == "13":
        print("EGL: no display", file=sys.stderr, flush=True)
        os._exit(3)
    print(MARK + json.dumps({"version": "9.9.9"}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        trouble = extras(request["mesh"]).get("trouble")
        print("Fra:1 chatter\n" * 1000, file=sys.stderr, flush=True)
        if trouble == "crash":
            print("out of embree", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        elif trouble == "hang":
            time.sleep(60)
        elif trouble == "error":
            print(MARK + json.dumps({"error": "ValueError: no mesh"}), flush=True)
            continue
        size = (request["resolution"],) * 2
        for path in request["pictures"]:
            # The process, in two bytes; a pixel that shows nothing, but with a colour.
            pid = os.getpid()
            picture = Image.new("RGBA", size, (pid >> 16, pid >> 8 & 255, pid & 255, 255))
            picture.putpixel((0, 0), (9, 9, 9, 0))
            picture.save(path)
            if trouble == "half":
                os.truncate(path, 50)
        software = "a processor" if engine == "eevee" else None
        print("Saved:", path, "\n" + MARK + json.dumps({"software": software}), flush=True)


main()
