"""How a module is a command: words in, exit code out.

`get3d NAME`, `python -m MODULE` and a step of the pipeline end alike: 0; 2 with one line on bad input; 128 and the
signal's number where they were interrupted; bugs of ours keep their traceback.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from get3d_model.errors import InputError
from get3d_model.files import clear_disk_errors


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where they say something: not of flags, and not where nothing is given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A flag with action="store_false" has the default True, which reads as if the flag were given.
        silent = action.nargs == 0 or action.default in (None, "", [])
        return action.help if silent else super()._get_help_string(action)


def exit_code(name: str, error: InputError | KeyboardInterrupt) -> int:
    """Says in one line, on standard error, why the command `name` ends. Returns the exit code."""
    code, message = 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        # What saved its state raises a subclass that says so and names its signal.
        code, message = 128 + getattr(error, "signal_number", signal.SIGINT), message or "interrupted"
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full or forbidden disk is no bug of ours: an InputError, where the code inside has no better advice. Nor is a
    file where a folder is wanted, or the other way round."""
    try:
        with clear_disk_errors(Path("a file"), "make space or access, then run the same command again"):
            yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        if error.filename is None:
            raise
        raise InputError(
            f"{error.filename}: {error.strerror}; a file stands where a folder is wanted, or a folder where a file is:"
            " give another path"
        ) from error


def command_main(
    name: str,
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], None],
) -> Callable[[list[str] | None], int]:
    """The `main` of a module that is a command: parses its words, or those of this process, and runs it.

    name: as its lines on standard error begin, such as "get3d render". Returns a function that returns the exit code.
    """

    def main(argv: list[str] | None = None) -> int:
        parser = argparse.ArgumentParser(prog=name, description=description)
        add_arguments(parser)
        args = parser.parse_args(argv)
        try:
            with disk_errors():
                run(args)
        except (InputError, KeyboardInterrupt) as error:
            return exit_code(name, error)
        except SystemExit as error:
            if not isinstance(error.code, str):
                raise
            # As Python itself ends with a text.
            print(error.code, file=sys.stderr)
            return 1
        return 0

    return main
