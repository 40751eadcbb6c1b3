"""Text in, audio out while both are still going on: the streams of a loaded bundle.

tts = cosyjax.load()
for wav in tts.stream("Hello there."):
    play(wav)

What streams is what would have been said whole under the chunk mask: the chunks of a request decide
when it is heard and nothing else. CosyVoice 2 (arXiv 2412.10117) section 2.4.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cosyjax.errors import InputError
from cosyjax.infer import buckets, decode_rows, kept, stream_step, talk, voice_state
from cosyjax.infer.acoustic_state import (
    AcousticModels,
    acoustic_models,
    bounded,
    check_memory,
    reach,
)
from cosyjax.infer.overlap import OverlapConfig
from cosyjax.infer.stream_row import Opening
from cosyjax.infer.stream_schedule import StreamConfig
from cosyjax.infer.stream_session import StreamSession, status
from cosyjax.infer.stream_step import Sizes, Speaker
from cosyjax.infer.voice import Voice
from cosyjax.shapes import TOKEN_RATE_HZ
from cosyjax.text.feed import SegmentRule, SentenceFeed, WordFeed

if TYPE_CHECKING:
    from cosyjax.infer.synthesize import Synthesizer

LEFT_SECONDS = 5  # that attention sees by default, the prompt included
LONGEST_CHUNK_TOKENS = TOKEN_RATE_HZ  # by default
SHORT_TEXT = 8  # text tokens of a rehearsal
LONGEST_WORD = 24  # text tokens
MAX_VOICES = 64  # whose encoded prompts are kept


@dataclasses.dataclass(frozen=True)
class StreamSetup:
    """What the programs and the state of streams are made for."""

    batch: int = 1  # streams at once
    schedule: StreamConfig | None = None  # largest chunks; None: from one mask chunk to 1 s
    # Mask chunks that attention sees behind its own. None: 5 s, with which a stream may go on for
    # ever; -1: everything, the sound of the whole however long, for at most `max_seconds`.
    left_context: int | None = None
    max_seconds: float = 60.0  # prompt and speech of a stream that sees everything
    max_piece_tokens: int = 1000  # speech tokens of a piece of text, at most
    max_text_tokens: int = 128  # text tokens that the LM reads for a piece, those of a prompt too
    max_prompt_tokens: int = 256  # speech tokens of a voice's prompt that the LM reads
    limit_bytes: float = 8e9  # of the state of the flow and the vocoder
    overlap: OverlapConfig = OverlapConfig()  # of a vocoder that is not causal
    ahead: int | None = None  # steps begun before one is heard; None: 1 on an accelerator, else 0

    def __post_init__(self) -> None:
        least = min(self.batch, self.max_piece_tokens, self.max_text_tokens)
        if least < 1 or self.max_seconds <= 0 or self.limit_bytes <= 0:
            raise InputError(
                f"batch={self.batch}, max_seconds={self.max_seconds}, max_piece_tokens="
                f"{self.max_piece_tokens}, max_text_tokens={self.max_text_tokens}, limit_bytes="
                f"{self.limit_bytes}: all must be above 0"
            )
        if self.left_context is not None and (self.left_context < -1 or not self.left_context):
            raise InputError(
                f"left_context={self.left_context}: -1 (everything) or at least 1 mask chunk"
            )
        if self.ahead is not None and self.ahead < 0:
            raise InputError(f"ahead={self.ahead} must be at least 0 steps")


class Streamer:
    """Streams of one bundle with one setup: its programs are compiled once and serve them all."""

    def __init__(self, tts: Synthesizer, setup: StreamSetup = StreamSetup()) -> None:
        """Chooses the sizes of the state.

        Raises:
          InputError: sizes that the bundle's mask does not allow, or more memory than allowed.
        """
        self.tts, self.setup = tts, setup
        models, params = acoustic_models(tts.stages, setup.overlap)
        left = setup.left_context or -(-LEFT_SECONDS * TOKEN_RATE_HZ // models.mask_chunk)
        models = bounded(models, left)
        self.schedule = setup.schedule or default_schedule(models.mask_chunk)
        self.schedule.check(models.mask_chunk)
        self.num_steps = tts.config.num_steps
        self.speaker = Speaker(
            tts.stages.lm,
            models,
            params,
            tts.bundle.config.sampling,
            tts.bundle.noise,
            tts.config.guidance_scale,
        )
        longest = int(np.ceil(tts.config.max_tokens_per_text_token * setup.max_text_tokens))
        most = min(setup.max_piece_tokens, longest)
        prompt = decode_rows.prompt_length(setup.max_text_tokens, setup.max_prompt_tokens)
        self.sizes = Sizes(
            batch=setup.batch,
            reach=_reach(models, setup.max_seconds),
            max_tokens=most,
            lm_length=prompt + most,
            window=self.schedule.window(models),
        )
        self.state_bytes = check_memory(
            models, setup.batch, self.sizes.reach, int(setup.limit_bytes), self.num_steps
        )
        self._voices: collections.OrderedDict[Any, tuple[Any, Any]] = collections.OrderedDict()

    def session(self) -> StreamSession:
        """Returns rows on which nobody speaks yet."""
        ahead = self.setup.ahead
        if ahead is None:
            ahead = int(jax.default_backend() != "cpu")
        return StreamSession(
            self.speaker,
            self.sizes,
            limits=self.tts.config,
            num_steps=self.num_steps,
            ahead=ahead,
        )

    def opening(
        self,
        voice: str | Path | Voice | None = None,
        *,
        mode: str | None = None,
        instruct: str = "",
        seed: int = 0,
        schedule: StreamConfig | None = None,
        blocks: bool = False,
    ) -> Opening:
        """Resolves what a stream begins with; a voice's prompt is encoded the first time only.

        Args:
          voice: as in `Synthesizer.synthesize`.
          mode: as there.
          instruct: as there.
          seed: as there.
          schedule: sizes of this stream's chunks; by default those of the setup.
          blocks: the LM reads text while it comes, N tokens of it to M of speech, without
            normalising it (section 2.3 of the paper); else it waits for whole sentences.

        Raises:
          InputError: an unknown voice or mode, or chunks that the mask does not allow.
        """
        schedule = schedule or self.schedule
        schedule.check(self.speaker.models.mask_chunk)
        name = (_identity(voice), mode, instruct)
        if name not in self._voices:
            # With the voice itself, so that its id is not given to another.
            self._voices[name] = voice, self._encode(self.tts.voice(voice), mode, instruct)
            while len(self._voices) > MAX_VOICES:
                self._voices.popitem(last=False)
        self._voices.move_to_end(name)
        conditions, encoded = self._voices[name][1]
        return Opening(conditions, encoded, jax.random.key(seed), schedule, blocks)

    def stream(self, text: str | Iterable[str], **request: Any) -> Iterator[np.ndarray]:
        """Speaks a text that is there, or one that is still being written.

        Args:
          text: a text, or parts of it as they arrive.
          request: see `opening`.

        Returns:
          An iterator of float32 waveforms at 24 kHz that follow one another. It ends with the
          text; an exception of the text's source passes through it.

        Raises:
          InputError: at once for what is wrong with the request, later for what is wrong with a
            text that comes later.
        """
        return talk.speak(self._talk(text, request), _parts(text, request))

    def astream(
        self, text: str | Iterable[str] | AsyncIterable[str], **request: Any
    ) -> AsyncIterator[np.ndarray]:
        """`stream` for coroutines: the event loop stays free while a chunk is computed."""
        return talk.speak_async(self._talk(text, request), _parts(text, request))

    def feeder(self, opening: Opening) -> SentenceFeed | WordFeed:
        """Returns what turns arriving text into the tokens that a stream is fed with."""
        if not opening.blocks:
            return SentenceFeed(functools.partial(self.encode, last=False))
        given = opening.conditions
        ratio, sizes = self.tts.stages.lm.model.config.mix_ratio, self.sizes
        room = decode_rows.text_budget(
            ratio, len(given.lm_speech_tokens), sizes.max_tokens, sizes.lm_length
        )
        longest = max(room - len(given.lm_text_tokens) - LONGEST_WORD, 1)
        rule = SegmentRule()
        rule = SegmentRule(min(rule.shortest, longest), min(rule.longest, longest))
        return WordFeed(self.tts.tokenizer.encode, rule)

    def encode(self, text: str, *, last: bool = True) -> list[list[int]]:
        """Normalises and splits a text; the tokens of each piece that is spoken.

        Raises:
          InputError: see `Synthesizer.pieces`; a part of a text (not `last`) may say nothing.
        """
        try:
            pieces = self.tts.pieces(text)
        except InputError:
            if last:
                raise
            return []
        return [self.tts.tokenizer.encode(piece) for piece in pieces]

    def warmup(self, voice: str | Path | Voice | None = None) -> None:
        """Compiles the programs of this setup, so that no request waits for one.

        Args:
          voice: encoded as well; other voices with prompts of another length may need more.
        """
        opening, models = self.opening(voice), self.speaker.models
        chunks = list(opening.schedule.all_sizes(models, opening.voice.num_tail))
        begin = lambda: stream_step.init_stream_state(self.speaker, self.sizes, self.num_steps)
        shape, place = jax.eval_shape(begin), kept.folder(self.speaker.params)
        for chunk in chunks:
            if place and chunk not in self.speaker.steps:
                self.speaker = stream_step.keep_step(self.speaker, shape, chunk, place)
        state = begin()
        for chunk in chunks:
            _, _, state = stream_step.stream_step(self.speaker, state, chunk)
            status(state)
        del state
        self._rehearse(opening, SHORT_TEXT, whole=True)
        for length in buckets.TEXT_TOKENS:
            if length <= self.setup.max_text_tokens:
                self._rehearse(opening, length - len(opening.conditions.lm_text_tokens))

    def _rehearse(self, opening: Opening, num_text: int, *, whole: bool = False) -> None:
        """Begins, or says whole, two pieces of a meaningless text of so many tokens."""
        if num_text < 1:
            return
        session = self.session()
        row = session.open(opening)
        for _ in range(2):
            session.feed(row, talk.piece([0] * num_text))
        session.end(row)
        session.step()
        while whole and session.busy:
            session.step()
        if session.busy:
            session.leave(row)

    def _talk(self, text: Any, request: dict[str, Any]) -> talk.Talk:
        blocks = request.get("blocks", False)
        pieces = self.encode(text) if isinstance(text, str) and not blocks else []
        opening = self.opening(**request)
        made = talk.Talk(self.session(), opening, self.feeder(opening))
        made.feed_pieces(pieces)
        return made

    def _encode(self, voice: Voice, mode: str | None, instruct: str) -> tuple[Any, Any]:
        conditions = self.tts.conditions(voice, mode, instruct)
        return conditions, voice_state.voice_state(
            self.speaker.models,
            self.speaker.params,
            conditions,
            noise=self.speaker.noise,
            num_steps=self.num_steps,
            guidance_scale=self.speaker.guidance_scale,
        )


def _identity(voice: str | Path | Voice | None) -> Any:
    """What tells voices apart: the object, or the name; of a file also when it was written."""
    if isinstance(voice, Voice):
        return id(voice)
    path = Path(voice) if voice else Path()
    return voice, path.stat().st_mtime_ns if path.is_file() else 0


def _reach(models: AcousticModels, max_seconds: float) -> int:
    """Tokens that attention sees: of a bounded context all, however long the stream."""
    if models.flow.config.left_chunks >= 0:
        return models.flow.config.left_chunks * models.mask_chunk
    return reach(models, int(np.ceil(max_seconds * TOKEN_RATE_HZ)))


def _parts(text: Any, request: dict[str, Any]) -> Any:
    """What is to be fed part by part: a whole text has been, unless it is read in blocks."""
    if isinstance(text, str):
        return [text] if request.get("blocks") else []
    return text


def default_schedule(mask_chunk: int) -> StreamConfig:
    """From the smallest chunk that the mask allows, doubled up to 1 s: few programs."""
    size = mask_chunk
    while 2 * size <= LONGEST_CHUNK_TOKENS:
        size *= 2
    return StreamConfig(first_chunk=mask_chunk, chunk=size)
