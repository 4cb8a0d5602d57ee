"""What a signal does to a training."""

from __future__ import annotations

import signal

import pytest

from get3d_model.training import signals


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
