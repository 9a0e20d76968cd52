"""Work that stops where it asks for something, and goes on with the answer.

Each piece of work has a thread of its own, but only to keep its place: whoever calls ``resume``
waits until the work asks or ends, so never more than one of them moves and nothing needs a lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

Ask = Callable[[Any], Any]


class Turn:
    """One piece of work.

    Attributes:
        result: what it returned, once it has ended.
        error: what it raised instead.
    """

    def __init__(self, work: Callable[[Ask], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def resume(self, answer: Any = None) -> Any:
        """Let the work go on until it asks again.

        Args:
            answer: to its last question (at the start there was none); an exception is raised
                where it asked, and work that is yet to start ends with it.

        Returns:
            The question; None when it has ended.
        """
        if self._thread.ident is None and isinstance(answer, BaseException):
            self.error = answer
            return None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(answer)
        return self._questions.get()

    def _run(self) -> None:
        try:
            self.result = self._work(self._ask)
        except BaseException as error:  # it belongs to whoever looks at the outcome
            self.error = error
        self._questions.put(None)

    def _ask(self, question: Any) -> Any:
        self._questions.put(question)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer
