"""The one error that is the user's to fix."""


class InputError(Exception):
    """Bad input: a file, a folder, a parameter or a request.

    The message is one line that names the thing and says how to fix it. The `get3d` command prints it
    and exits with 2; the Triton model returns it as INVALID_ARGUMENT. Anything else that is raised is a
    bug of ours and keeps its traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raises InputError unless the condition holds."""
    if not condition:
        raise InputError(message)
