"""Signals to stop: held back while steps run, so that their result can be saved first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """What SIGTERM and SIGINT (Ctrl-C) do in a block.

    They end it by an exception: KeyboardInterrupt for SIGINT, SystemExit with the customary status
    143 for SIGTERM. Inside :meth:`held_back`, the first one is only noted. Outside of Python's main
    thread, and for a signal that the process ignores, nothing changes.

    Attributes:
      received: the signal that was held back, if any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._holding = False
        self._before: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Notes the first signal, for the block to look at; a second one ends it at once.

        At the end of the block the signal does what it was kept from.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.received is not None:
            self._stop()

    def receive(self, number: int) -> None:
        """Notes a signal that another process has received; 0: none."""
        if number:
            self.received = signal.Signals(number)

    def _stop(self) -> NoReturn:
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, signal.Signals(number)
        if not (first and self._holding):
            self._stop()
        # Not print, which may be what the signal has interrupted.
        message = f"\n{self.received.name}: saving after the steps in flight; again: stop at once\n"
        with contextlib.suppress(OSError):
            os.write(2, message.encode())

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
