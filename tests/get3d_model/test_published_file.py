"""Reading the published files: nothing is executed, and what is wrong is said in one line."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import pytest
import torch

from get3d_model.errors import InputError
from get3d_model.published_file import read_published_file, write_published_file

STATE = {"mapping.w_avg": torch.arange(3.0), "b4.conv.weight": torch.ones(2, 2)}


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Foreign:
    """Stands for a network object, as whole-module pickles hold them."""


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_published_file(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_published_file({"G": STATE, "G_ema": STATE, "D": STATE}, tmp_path / "a.pt")
    parts = read_published_file(tmp_path / "a.pt")
    assert sorted(parts) == ["D", "G", "G_ema"]
    assert all(torch.equal(parts["D"][name], STATE[name]) for name in STATE)


def test_wrappers_half_precision_and_other_entries(tmp_path: Path) -> None:
    wrapped = collections.OrderedDict((f"module.{name}", tensor.half()) for name, tensor in STATE.items())
    inner = {
        "mapping.module.w_avg": STATE["mapping.w_avg"],
        "_orig_mod.b4.conv.weight": STATE["b4.conv.weight"],
    }
    torch.save({"G_ema": wrapped, "D": inner, "step": 3, "args": {"lr": 0.1}, "G": None}, tmp_path / "a.pt")
    parts = read_published_file(tmp_path / "a.pt")
    assert sorted(parts) == ["D", "G_ema"]
    for state in parts.values():
        assert sorted(state) == sorted(STATE)
        assert all(tensor.dtype == torch.float32 for tensor in state.values())


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_files_are_refused_and_not_executed(tmp_path: Path, legacy: bool) -> None:
    touched = tmp_path / "touched"
    content = {"G": STATE, "G_ema": STATE, "D": STATE, "extra": Touch(touched)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    assert "nothing in it was executed" in refused(tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(content["extra"]))
    refused(tmp_path / "plain.pkl")
    assert not touched.exists()
    # The files are what they claim to be: an unrestricted reader would have run them.
    pickle.loads((tmp_path / "plain.pkl").read_bytes())
    assert touched.exists()


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    torch.save({"G_ema": Foreign()}, tmp_path / "module.pt")
    assert "Foreign" in refused(tmp_path / "module.pt")
    write_published_file({"G_ema": STATE}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for name, content in (
        ("half.pt", whole[: len(whole) // 2]),
        ("short.pt", whole[:-30]),
        ("empty.pt", b""),
        ("text.pt", b"hello world\n" * 20),
        ("zip.pt", b"PK\x03\x04" + bytes(200)),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    assert "no such checkpoint file" in refused(tmp_path / "missing.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt")


def test_other_content_is_named(tmp_path: Path) -> None:
    for name, content, expected in (
        ("list.pt", [1, 2], "holds list, not the state dictionaries"),
        ("flat.pt", STATE, "holds 'mapping.w_avg', 'b4.conv.weight', not the state dictionaries"),
        ("tensor.pt", {"G_ema": torch.ones(2)}, "not the state dictionaries"),
        ("number.pt", {"G_ema": {"a": 3}}, "G_ema holds int under 'a'"),
        ("broken.pt", {"G_ema": STATE, "D": [1]}, "D is list, not a state dictionary"),
        ("nan.pt", {"G_ema": {"a": torch.tensor(torch.nan)}}, "G_ema a is not finite"),
    ):
        torch.save(content, tmp_path / name)
        assert expected in refused(tmp_path / name)
