"""ShapeNet's folder layout, versions 1 and 2."""

from __future__ import annotations

import os
import re
from pathlib import Path


def shapenet_names(folder: Path, relative: str) -> tuple[str, str | None] | None:
    """(model id, synset) of a mesh in ShapeNet's layout, None for every other path.

    Version 1: `<synset>/<id>/model.obj`; version 2: `<synset>/<id>/models/model_normalized.obj`. `folder` may
    be the synset's own folder; version 2 is known without a synset, which is then None.
    """
    parts = (os.path.basename(os.path.abspath(folder)), *relative.split("/"))
    if parts[-1].lower() == "model.obj" and len(parts) >= 3 and _is_synset(parts[-3]):
        return parts[-2], parts[-3]
    if parts[-1].lower() == "model_normalized.obj" and len(parts) >= 4 and parts[-2] == "models":
        return parts[-3], parts[-4] if _is_synset(parts[-4]) else None
    return None


def _is_synset(name: str) -> bool:
    return re.fullmatch(r"\d{8}", name) is not None
