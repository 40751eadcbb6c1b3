"""Many streams at once: requests join free rows of one batch between two steps, and leave it.

with StreamEngine(tts.streamer(StreamSetup(batch=16))) as engine:
    for wav in engine.submit("Hello there.", voice="af_heart"):
        play(wav)

One thread computes; any thread may submit, feed and listen. What a request says does not depend on
who else speaks.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer.stream_row import Opening
from cosyjax.infer.streaming import Streamer
from cosyjax.infer.talk import checked, piece
from cosyjax.text.feed import Fed


class Ticket:
    """One request: text goes in, audio comes out. Iterate over it for waveforms [N] at 24 kHz."""

    def __init__(self, engine: StreamEngine, opening: Opening) -> None:
        self._engine, self.opening = engine, opening
        self._feeder = engine.streamer.feeder(opening)
        self._heard: queue.Queue[np.ndarray | BaseException | None] = queue.Queue()
        self._any_text = False
        self.inbox: list[Fed] = []  # text that the engine has not taken; guarded by its lock
        self.ended = self.cancelled = False
        self.row: int | None = None

    def feed(self, text: str) -> None:
        """Takes the next part of the text.

        Raises:
          InputError: it is no string, or the text has ended.
        """
        if self.ended:
            raise InputError("the text of this request has ended; submit another one")
        self.give(self._feeder.push(checked(text)))

    def end(self) -> None:
        """The text is complete.

        Raises:
          InputError: there was nothing to speak in it; the request is over.
        """
        self.give(self._feeder.close())
        if not self._any_text:
            self.cancel()
            raise InputError("nothing to speak: the text ended without a word in it")
        with self._engine.changed:
            self.ended = True
            self._engine.changed.notify()

    def cancel(self) -> None:
        """Ends the request; what was not heard yet is dropped."""
        with self._engine.changed:
            self.cancelled = True
            self._engine.changed.notify()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields waveforms as they are spoken; leaving the loop early ends the request."""
        over = False
        try:
            while True:
                item = self._heard.get()
                over = item is None or isinstance(item, BaseException)
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if not over:
                self.cancel()

    def give(self, parts: Iterable[Fed]) -> None:
        """Hands text tokens to the engine."""
        found = list(parts)
        self._any_text |= bool(found)
        with self._engine.changed:
            self.inbox += found
            self._engine.changed.notify()

    def say(self, item: np.ndarray | BaseException | None) -> None:
        """Called by the engine: a waveform, why the request failed, or None at its end."""
        self._heard.put(item)


class StreamEngine:
    """Serves requests on the rows of one session, in the order in which they were submitted."""

    def __init__(self, streamer: Streamer, *, max_waiting: int = 1000) -> None:
        """Starts the thread that computes.

        Args:
          streamer: with as many rows as streams are to be spoken at once.
          max_waiting: requests that wait for a row, at most.
        """
        self.streamer, self._max_waiting = streamer, max_waiting
        self.changed = threading.Condition()
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._speaking: dict[int, Ticket] = {}
        self._session = streamer.session()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="cosyjax-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> StreamEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def submit(self, text: str | Iterable[str] | None = None, **request: Any) -> Ticket:
        """Accepts a request.

        Args:
          text: the text; parts of it as they come (they are read in a thread of their own); or
            None for one that is fed by hand (`Ticket.feed`, `Ticket.end`).
          request: see `Streamer.opening`.

        Raises:
          InputError: something is wrong with the request, too many wait, or the engine is closed.
        """
        ticket = Ticket(self, self.streamer.opening(**request))
        if isinstance(text, str) and not ticket.opening.blocks:
            ticket.give(map(piece, self.streamer.encode(text)))
        with self.changed:
            if self._closed:
                raise InputError("this engine is closed; start another one")
            if len(self._waiting) >= self._max_waiting:
                raise InputError(f"{len(self._waiting)} requests wait already; try again later")
            self._waiting.append(ticket)
            self.changed.notify()
        if isinstance(text, str):
            if ticket.opening.blocks:
                ticket.feed(text)
            ticket.end()
        elif text is not None:
            threading.Thread(target=_read, args=(ticket, text), daemon=True).start()
        return ticket

    def close(self) -> None:
        """Ends all requests and the thread."""
        with self.changed:
            self._closed = True
            self.changed.notify()
        self._thread.join()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while self._prepare():
                for said in self._session.step():
                    self._deliver(said)
        except BaseException as problem:  # a listener must not wait for a thread that is dead
            error = problem
        with self.changed:
            self._closed = True
            left = [*self._speaking.values(), *self._waiting]
        for ticket in left:
            ticket.say(error or InputError("the engine was closed before all was said"))

    def _prepare(self) -> bool:
        """Waits for something to do; takes in requests and text. False once closed."""
        with self.changed:
            while not self._closed:
                busy = self._take_in()
                if busy:
                    return True
                self.changed.wait()
        return False

    def _take_in(self) -> bool:
        """Moves requests to rows and text to the session; says whether a step would do anything."""
        for ticket in [ticket for ticket in self._waiting if ticket.cancelled]:
            self._waiting.remove(ticket)
            ticket.say(None)
        while self._waiting and self._session.free_rows:
            ticket = self._waiting.popleft()
            ticket.row = self._session.open(ticket.opening)
            self._speaking[ticket.row] = ticket
        for row, ticket in list(self._speaking.items()):
            if ticket.cancelled:
                self._session.leave(row)
                del self._speaking[row]
                ticket.say(None)
                continue
            for fed in ticket.inbox:
                self._session.feed(row, fed)
            ticket.inbox.clear()
            if ticket.ended:
                self._session.end(row)
        return any(not self._session.starved(row) for row in self._speaking)

    def _deliver(self, said: Any) -> None:
        ticket = self._speaking[said.row]
        if len(said.wav):
            ticket.say(said.wav)
        if said.done:
            del self._speaking[said.row]
            ticket.say(said.error)


def _read(ticket: Ticket, text: Iterable[str]) -> None:
    """Feeds a request from an iterator; an error of the iterator becomes the request's."""
    try:
        for part in text:
            if ticket.cancelled:
                return
            ticket.feed(part)
        ticket.end()
    except Exception as error:  # whatever the source raises belongs to whoever listens
        ticket.say(error)
        ticket.cancel()
