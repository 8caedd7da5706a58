"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Shows the progress towards a total, with rate and time left.

    Args:
      name: name of the work.
      total: the total amount.
      unit: its unit.
      start: the amount that is already done.
      quiet: show nothing.
      every: seconds between plain lines.
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        start: int = 0,
        quiet: bool = False,
        every: float = 10.0,
    ):
        self.name, self.total, self.unit, self.done = name, total, unit, start
        self._every, self._quiet = every, quiet
        self._note = ""
        self._begun = self._printed = time.monotonic()
        self._start = start
        self._bar = None
        if not quiet and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, desc=name, unit=f" {unit}", unit_scale=True
            )

    def advance(self, count: int, note: str | None = None) -> None:
        """Advances by ``count``, with an optional note to show."""
        self.done += count
        if note is not None:
            self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if not self._quiet and (now - self._printed >= self._every or self.done >= self.total):
            self._printed = now
            rate = (self.done - self._start) / max(now - self._begun, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            print(
                f"{self.name}: {self.done}/{self.total} {self.unit}, {rate:.0f}/s, "
                f"{left:.0f} s left{', ' + self._note if self._note else ''}",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
