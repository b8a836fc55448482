"""Saying how far a long piece of work is, from the first second of waiting on, whatever it waits for."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Self

FIRST_AFTER_S = 1.0
INTERVAL_S = 10.0


class Progress:
    """Tells on stderr how far work is: after a second, and every ten seconds as long as it lasts.

        with Progress("inspecting clips", 500) as progress:
            for file in files:
                ...
                progress.step()

    A thread tells, so that it is told as well while a single file takes long, or another process is waited for.
    """

    def __init__(self, what: str, total: int, unit: str = "files", count: Callable[[], int] | None = None):
        """Prepares to tell.

        Args:
            what: the work.
            total: how many pieces it has.
            unit: what the pieces are.
            count: says how many are done, where nobody calls `step`.
        """
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._count = count
        self._over = threading.Event()
        self._told = False

    def __enter__(self) -> Self:
        self._over.clear()
        self._thread = threading.Thread(target=self._tell, name=f"progress of {self.what}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._told and self.done == self.total:
            self._print()

    def step(self) -> None:
        """Counts one more piece as done."""
        self.done += 1

    def _tell(self) -> None:
        wait_s = FIRST_AFTER_S
        while not self._over.wait(wait_s):
            self._print()
            self._told, wait_s = True, INTERVAL_S

    def _print(self) -> None:
        with contextlib.suppress(OSError):  # of counting in a folder that is just being renamed
            self.done = self._count() if self._count else self.done
        print(f"{self.what}: {self.done}/{self.total} {self.unit}", file=sys.stderr, flush=True)
