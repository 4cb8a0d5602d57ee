"""What the project's self-contained pages share: pictures as `data:` addresses, the look, the template environment.

Shape legend: H W pixels
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image


@dataclass(frozen=True)
class Figure:
    """A picture with its caption. uri: `data:` with the whole picture."""

    caption: str
    uri: str
    width: int
    height: int


def page_environment(*folders: Path) -> Environment:
    """Templates of these folders and of this one, where `style.css.j2` is; an undefined name is an error."""
    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def png_figure(picture_HW3: np.ndarray, caption: str) -> Figure:
    """A picture as a lossless PNG."""
    image = Image.fromarray(picture_HW3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Figure(caption, data_uri("image/png", buffer.getvalue()), image.width, image.height)


def jpeg_figure(image: Image.Image, caption: str) -> Figure:
    """A picture as a JPEG, for what was scaled anyway."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return Figure(caption, data_uri("image/jpeg", buffer.getvalue()), image.width, image.height)


def data_uri(kind: str, content: bytes) -> str:
    """`content` of MIME type `kind` as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
