"""What a signal does to a training."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from get3d_model.training import signals


@pytest.fixture
def python_handles_interrupts() -> Iterator[None]:
    """As in a terminal: a process that a script starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
def test_an_echo_is_the_same_request_and_a_second_request_is_not_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals.SignalFlag() as flag:
        assert flag.number is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert flag.number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(signals, "ECHO_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
