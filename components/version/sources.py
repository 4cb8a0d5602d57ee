"""Where the outputs of a run lie: what `--outputs` says, matched with what the pipeline declares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from components.data_pointer import DataPointer, parse_location
from get3d_model.errors import InputError


@dataclass(frozen=True)
class Given:
    """What `--outputs` names. by_path: path in the repository -> where it lies. roots: folders laid out like the
    repository, searched for everything that by_path leaves open.
    """

    by_path: dict[str, Path | DataPointer]
    roots: tuple[Path, ...]

    def find(self, path: str) -> Path | DataPointer | None:
        """Where the output `path` lies; None where nobody says."""
        if path in self.by_path:
            return self.by_path[path]
        parents = [
            source / path.removeprefix(f"{folder}/")
            for folder, source in self.by_path.items()
            if isinstance(source, Path) and path.startswith(f"{folder}/")
        ]
        return next((p for p in (*parents, *(root / path for root in self.roots)) if p.exists()), None)


def parse_outputs(words: Iterable[str]) -> Given:
    """Reads `PATH=WHERE` and plain folders. Raises InputError for what is not there or named twice."""
    by_path: dict[str, Path | DataPointer] = {}
    roots = []
    for word in words:
        name, equals, where = word.partition("=")
        if not equals or Path(word).is_dir():
            if not Path(word).is_dir():
                raise InputError(f"--outputs {word}: no such folder; give a folder, or PATH=FOLDER")
            roots.append(Path(word).absolute())
            continue
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise InputError(f"--outputs {word}: {name!r} is no path inside the repository")
        location = parse_location(where)
        if isinstance(location, Path):
            if not location.exists():
                raise InputError(
                    f"--outputs {word}: {where} is not there; the step that makes it did not finish"
                )
            location = location.absolute()
        if str(path) in by_path:
            raise InputError(f"--outputs names {path} twice")
        by_path[str(path)] = location
    return Given(by_path, tuple(roots))


def check_known(given: Given, outputs: Iterable[str], dependencies: Iterable[str]) -> list[str]:
    """The given paths that no stage makes but one reads: inputs of the run. Raises InputError for other paths."""
    outputs, dependencies = set(outputs), set(dependencies)
    inputs = []
    for path in given.by_path:
        if any(output == path or output.startswith(f"{path}/") for output in outputs):
            continue
        if path not in dependencies:
            near = difflib.get_close_matches(path, outputs | dependencies, 1)
            hint = f"did you mean {near[0]}" if near else f"outputs are {', '.join(sorted(outputs))}"
            raise InputError(f"--outputs {path}: no stage of dvc.yaml makes or reads it; {hint}?")
        inputs.append(path)
    return inputs
