"""Deferred stop signals: steps in flight are finished and saved before the process stops."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Handles SIGTERM and SIGINT (Ctrl-C) within a block.

    They raise an exception: KeyboardInterrupt for SIGINT, SystemExit with the usual status 143 for
    SIGTERM. Inside :meth:`held_back`, the first signal is only recorded. Outside Python's main
    thread, and for signals that the process ignores, nothing changes.

    Attributes:
      received: the signal that was recorded, if any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._holding = False
        self._before: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Records the first signal in :attr:`received`; a second one interrupts the block at once.

        A recorded signal takes effect at the end of the block.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self.received is not None:
            self._stop()

    def receive(self, number: int) -> None:
        """Records a signal that another process has received; 0: none."""
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
        # Not print: the signal may have interrupted a print.
        name = self.received.name
        message = f"\n{name}: saving after the steps in flight; repeat to stop at once\n"
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
