"""Data pointers as addresses of fsspec: what reads s3:// reads dvc:// too, piece by piece and without a copy."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from components.data_pointer import SCHEME, DataPointer, open_dvc, parse_location
from get3d_model.errors import InputError


class PointerFileSystem(AbstractFileSystem):
    """Reads `dvc://REPO@REVISION:PATH/...`. repo, revision: of the git repository that tracks the files."""

    protocol = "dvc"

    def __init__(self, repo: str, revision: str, **options: Any) -> None:
        super().__init__(repo=repo, revision=revision, **options)
        self._dvc = open_dvc(repo, revision)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{_parsed(path).path}" if path.startswith(SCHEME) else path.rstrip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        pointer = _parsed(path)
        return {"repo": pointer.repo, "revision": pointer.revision}

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return self._dvc.ls(path, detail=detail, **options)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._dvc.info(path, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return self._dvc.open(path, mode)


def register() -> None:
    """From now on fsspec opens pointers. (DVC's own entry for this scheme takes no revision.)"""
    fsspec.register_implementation("dvc", PointerFileSystem, clobber=True)


def address(pointer: DataPointer) -> str:
    """The pointer as an address; `str(pointer)` leaves passwords out."""
    return f"{SCHEME}{pointer.repo}@{pointer.revision}:{pointer.path}"


def _parsed(path: str) -> DataPointer:
    location = parse_location(path)
    if not isinstance(location, DataPointer):
        raise InputError(f"{path!r} is no data pointer")
    return location
