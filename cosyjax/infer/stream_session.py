"""Streams on the rows of one state: they open, take text, speak chunk by chunk, and end.

This is the host's half of streaming. It waits for nothing but audio: text is handed in (`feed`)
by whoever has it, so that a generator, a coroutine and a server of many requests are thin shells
around `step`. What the device remembers is `stream_step.StreamState`, passed in and returned.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import decode_rows, feed_text, speak, stream_step
from cosyjax.infer.acoustic_state import check_room
from cosyjax.infer.decode import DecodeState
from cosyjax.infer.decode_text import TextState
from cosyjax.infer.speak import SynthesisConfig
from cosyjax.infer.stream_row import Opening, Row, Taken
from cosyjax.infer.stream_step import Arrival, Sizes, Speaker, StreamState
from cosyjax.infer.voice_state import begin_row
from cosyjax.text.feed import Fed


class Said(NamedTuple):
    """What one stream says in one step."""

    row: int
    wav: np.ndarray  # [N] float32 at 24 kHz; may be empty
    done: bool  # all has been said; the row is free again
    error: InputError | None = None  # why the stream ended before its text did


class Status(NamedTuple):
    """What the host has to know of every row, [B] each."""

    done: Any  # all has been said
    lm_done: Any  # the LM has ended the piece that it was given
    num_tokens: Any  # that it drew for it
    fits: Any  # what it drew and the flow has not taken fits into the queue
    resting: Any  # it has drawn all that its text allows
    room: Any  # text tokens that it takes now


class _Flight(NamedTuple):
    """A step whose audio has not been fetched."""

    audio: tuple[Any, Any]  # wav [B, N], num_samples [B]
    status: Status
    chunk: int
    rows: list[tuple[int, int]]  # (ticket, version) of each row when the step was begun


class StreamSession:
    """Up to B streams that share one batch."""

    def __init__(
        self,
        speaker: Speaker,
        sizes: Sizes,
        *,
        limits: SynthesisConfig,
        num_steps: int | None = None,
        ahead: int = 0,
    ) -> None:
        """Makes a state with free rows.

        Args:
          speaker: models, parameters, and how tokens are drawn.
          sizes: of the state.
          limits: tokens of a piece for those of its text.
          num_steps: Euler steps; None for those of the flow's config. The voices of the streams
            must have been encoded with as many.
          ahead: steps that are begun before the audio of one is fetched. An accelerator then
            never waits for the host; a text that is still coming, or a row that ends, is noticed
            as many chunks later.
        """
        self._speaker, self._sizes, self._limits = speaker, sizes, limits
        self._ahead = ahead
        self._state: StreamState = stream_step.init_stream_state(speaker, sizes, num_steps)
        self._rows: list[Row | None] = [None] * sizes.batch
        self._flights: collections.deque[_Flight] = collections.deque()
        self._tickets = 0

    @property
    def free_rows(self) -> int:
        """How many further streams can be opened now."""
        return sum(row is None for row in self._rows)

    @property
    def busy(self) -> bool:
        """Some stream has not ended."""
        return self.free_rows < len(self._rows)

    def open(self, opening: Opening) -> int:
        """Gives a stream a row; it begins to speak once it has text.

        Raises:
          InputError: no row is free, or the chunks of its schedule do not fit the state.
        """
        if not self.free_rows:
            raise InputError(f"all {len(self._rows)} rows speak: wait until one has ended")
        models = self._speaker.models
        if opening.schedule.window(models) > self._sizes.window:
            raise InputError(
                f"chunks of up to {opening.schedule.chunk} tokens; this state was made for "
                f"{self._sizes.window - models.lookahead}, the prompt's tail included: make it "
                "with this schedule"
            )
        sizes = opening.schedule.sizes(models, opening.voice.num_tail)
        number = self._rows.index(None)
        self._tickets += 1
        self._rows[number] = Row(opening, sizes, next(sizes), self._tickets)
        return number

    def feed(self, number: int, fed: Fed) -> None:
        """Hands a stream the next piece of its text; an empty one changes nothing."""
        row = self._row(number)
        if row.ended:
            raise InputError("the text of this stream has ended; open another one")
        if fed.tokens:
            row.inbox.append(fed)

    def end(self, number: int) -> None:
        """Says that a stream's text is complete. What is left of it is spoken, then it is done."""
        self._row(number).ended = True

    def leave(self, number: int) -> None:
        """Ends a stream at once, whatever it still had to say."""
        row = self._row(number)
        if row.piece:
            self._state = stream_step.leave_row(self._state, number)
        self._rows[number] = None

    def starved(self, number: int) -> bool:
        """Whether a stream said nothing in the last step and cannot go on without text."""
        return self._row(number).starved

    def step(self) -> list[Said]:
        """Speaks the next chunk of every stream that can; returns what each says, if anything."""
        said = [one for number in range(len(self._rows)) for one in self._supply(number)]
        if any(row and row.piece for row in self._rows):
            self._launch()
            while len(self._flights) > self._ahead or self._all_wait():
                said += self._land()
                if not self._flights:
                    break
        return said

    def _row(self, number: int) -> Row:
        row = self._rows[number]
        if row is None:
            raise InputError(f"no stream speaks on row {number}")
        return row

    def _all_wait(self) -> bool:
        """Whether no row is sure to speak again: then nothing is gained by being ahead."""
        return bool(self._flights) and all(
            row is None or not row.piece or row.hungry or row.resting or row.silent
            for row in self._rows
        )

    def _supply(self, number: int) -> Iterator[Said]:
        """Gives a row the text that it can take; a text that it can never take ends it."""
        row = self._rows[number]
        if row is None:
            return
        try:
            if row.reading:
                self._give_more(number, row)
            elif row.hungry or not row.piece:
                self._give_piece(number, row)
        except InputError as error:
            self.leave(number)
            yield Said(number, np.zeros(0, np.float32), True, error)
            return
        if row.ended and not row.inbox and not row.reading and not row.final:
            if not row.piece:
                self._rows[number] = None
                yield Said(number, np.zeros(0, np.float32), True)
                return
            self._state = _set_final(self._state, number)
            row.final = True

    def _give_more(self, number: int, row: Row) -> None:
        """Hands on what has come of the piece that the LM is reading."""
        taken = row.take(row.room)
        self._state = feed_text.feed_text(
            self._state, number, taken.tokens, taken.final, room=row.room
        )
        row.room -= len(taken.tokens)
        row.reading = not taken.final
        row.version += bool(len(taken.tokens) or taken.final)

    def _give_piece(self, number: int, row: Row) -> None:
        """Lets the LM begin the next piece, and where it is the first one the row."""
        ratio, conditions = self._speaker.lm.model.config.mix_ratio, row.opening.conditions
        least = max(decode_rows.missing_text(ratio, conditions), 1)
        taken = row.take_first(least, self._sizes.text_room)
        if taken is None:
            return
        lm, text = self._read(row, taken)
        row.final = row.ended and taken.final and not row.inbox
        if row.piece:
            self._state = stream_step.next_piece(self._state, number, lm, row.final, text)
        else:
            voice, reach = row.opening.voice, self._sizes.reach
            acoustic = begin_row(voice.acoustic, jax.random.fold_in(row.opening.key, 0), reach)
            arrival = Arrival(acoustic, voice.tail, voice.num_tail, lm, row.final, text)
            self._state = stream_step.join_row(self._state, number, arrival)
        row.piece, row.version = row.piece + 1, row.version + 1
        row.hungry = row.resting = False
        row.reading = not taken.final
        row.room = 0 if text is None else int(jax.device_get(text.room)[0])

    def _read(self, row: Row, taken: Taken) -> tuple[DecodeState, TextState | None]:
        """The states of an LM that has read the beginning of a piece."""
        self._check_room(row, taken)
        blocks = row.opening.blocks
        options: dict[str, Any] = {
            "sampling": self._speaker.sampling,
            "config": self._limits,
            "max_tokens": self._sizes.max_tokens,
            "lm_length": self._sizes.lm_length,
        }
        key = jax.random.fold_in(row.opening.key, row.piece)
        given = self._speaker.lm, taken.tokens, row.opening.conditions, key
        if not blocks:
            return decode_rows.start_row(*given, **options), None
        return decode_rows.start_text_row(
            *given, **options, text_room=self._sizes.text_room, final=taken.final
        )

    def _check_room(self, row: Row, taken: Taken) -> None:
        """Makes sure that the flow, where it is to see everything, can hold the piece."""
        most = self._sizes.max_tokens
        if taken.final:
            most = min(speak.token_limits(len(taken.tokens), self._limits)[1], most)
        total = row.opening.voice.num_prompt + row.num_spoken + most
        check_room(self._speaker.models, self._sizes.reach, total)

    def _launch(self) -> None:
        """Begins a step: the smallest chunk that a speaking row wants."""
        chunk = min(row.size for row in self._rows if row and row.piece)
        spoken, _, self._state = stream_step.stream_step(self._speaker, self._state, chunk)
        rows = [(row.ticket, row.version) if row else (0, 0) for row in self._rows]
        audio = spoken.wav, spoken.num_samples
        self._flights.append(_Flight(audio, status(self._state), chunk, rows))

    def _land(self) -> list[Said]:
        """Fetches the audio of the oldest step."""
        flight = self._flights.popleft()
        (wavs, counts), seen = jax.device_get((flight.audio, flight.status))
        said = []
        for number, row in enumerate(self._rows):
            ticket, version = flight.rows[number]
            if row is None or ticket != row.ticket or not version:
                continue  # whoever spoke there has left, or was not there yet
            count, done = int(counts[number]), bool(seen.done[number])
            row.silent = not count
            if count and flight.chunk == row.size:
                row.size = next(row.sizes)
            if version == row.version:
                _note(row, number, seen)
            if count or done:
                said.append(Said(number, wavs[number, :count].copy(), done))
            if done:
                self._rows[number] = None
        return said


def _note(row: Row, number: int, seen: Status) -> None:
    """Notes how far a row is with the text that it has been given."""
    row.resting, row.room = bool(seen.resting[number]), int(seen.room[number])
    if seen.lm_done[number] and seen.fits[number] and not row.hungry:
        row.hungry = True
        row.num_spoken += int(seen.num_tokens[number])


@jax.jit
def status(state: StreamState) -> Status:
    """What the host has to know after a step; a small copy, so that the state can be given away."""
    queue, left = state.queue, state.lm.num_tokens - state.queue.num_taken
    fits = left <= queue.pending.shape[1] - queue.num_pending
    text = feed_text.text_progress(state)
    lm = state.lm.done, state.lm.num_tokens + 0, fits
    return Status(queue.done | False, *lm, text.resting, text.room)


def _final(state: StreamState, row: jax.Array | int) -> StreamState:
    return state.replace(queue=state.queue.replace(final=state.queue.final.at[row].set(True)))


_set_final = jax.jit(_final, donate_argnums=0)
