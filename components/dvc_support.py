"""What every step that calls DVC or git needs: an environment they work in, and their errors in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER_NAME = "get3d"
USER_EMAIL = "get3d@localhost"


@contextmanager
def pod_environment(state: Path, safe_folders: tuple[Path, ...] = ()) -> Iterator[None]:
    """Makes DVC and git work where there is no home, no user name and no git configuration, as in a container.

    What the user has set stays: only gaps are filled. Nothing asks for a password, nothing calls home.
    state: a writable folder for what DVC and git keep. safe_folders: repositories that may belong to another user.
    """
    state.mkdir(parents=True, exist_ok=True)
    home = os.environ.get("HOME")
    usable = bool(home) and os.access(home or "", os.W_OK)
    config = state / "gitconfig"
    config.write_text(_git_config(home if usable else None, safe_folders))
    wanted = {
        "DVC_NO_ANALYTICS": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": str(config),
        # Messages are recognised by their words.
        "LC_ALL": "C.UTF-8",
    }
    defaults = {
        "USER": USER_NAME,
        "LOGNAME": USER_NAME,
        "DVC_SITE_CACHE_DIR": str(state / "site-cache"),
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    }
    wanted |= {name: value for name, value in defaults.items() if not os.environ.get(name)}
    if not usable:
        (state / "home").mkdir(exist_ok=True)
        wanted["HOME"] = str(state / "home")
    # Of a git hook that started this process; they would point our commands at its repository.
    unwanted = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
    before = {name: os.environ.get(name) for name in (*wanted, *unwanted)}
    os.environ.update(wanted)
    for name in unwanted:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _git_config(home: str | None, safe_folders: tuple[Path, ...]) -> str:
    """The user's own configuration, with ours around it: an identity where there is none, and safe.directory."""
    given = os.environ.get("GIT_CONFIG_GLOBAL")
    xdg = os.environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None)
    included = [given] if given else [f"{xdg}/git/config"] * bool(xdg) + [f"{home}/.gitconfig"] * bool(home)
    lines = ["[user]", f"name = {USER_NAME}", f"email = {USER_EMAIL}", "[gc]", "auto = 0"]
    lines += [line for path in included for line in ("[include]", f'path = "{path}"')]
    lines += [line for folder in safe_folders for line in ("[safe]", f'directory = "{folder}"')]
    return "\n".join(lines) + "\n"


def without_password(url: str) -> str:
    """The URL without the password that may stand in it, for messages and records."""
    # Of HTTP the user goes too: it may be a token.
    url = re.sub(r"\b(https?://)[^/@\s]+@", r"\1", url)
    return re.sub(r"(?<=://)([^/@:\s]*):[^/@\s]*@", r"\1@", url)


def one_line(error: BaseException | str) -> str:
    """What an error says, with its causes, on one line and without passwords."""
    parts: list[str] = []
    while isinstance(error, BaseException):
        text = " ".join(str(error).split()) or type(error).__name__
        if not any(text in part for part in parts):
            parts.append(text)
        following = error.__cause__ or error.__context__
        if following is None or len(parts) == 3:
            break
        error = following
    else:
        parts = [" ".join(error.split())]
    return without_password(": ".join(parts))
