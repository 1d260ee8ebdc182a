"""Trouble that is retried for ever is told once: when it begins, and again when it is another trouble."""

from collections.abc import Hashable
from typing import Final

SUBJECTS_MAX: Final = 1024


class News:
    """What was last said about each subject. Strangers are subjects too, so their number is bounded."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[Hashable, str] = {}

    def is_news(self, subject: Hashable, words: str) -> bool:
        """Have other words been said about `subject` last, or none?"""
        if self._last.get(subject) == words:
            return False
        if len(self._last) >= SUBJECTS_MAX:
            self._last.clear()
        self._last[subject] = words
        return True

    def settled(self, subject: Hashable) -> None:
        """The trouble is over: the next one is news, even if it is the same."""
        self._last.pop(subject, None)
