"""`cosyjax.load(bundle)` and the object that speaks.

tts = cosyjax.load()
speech = tts.synthesize("Hello there.")
speech.save("hello.wav")
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cosyjax import shapes
from cosyjax.errors import InputError, nearest
from cosyjax.infer import chunks, prompt, shipped, speak
from cosyjax.infer.bundle import Bundle, load_bundle
from cosyjax.infer.compute import ComputePlan, enable_compilation_cache, make_plan
from cosyjax.infer.decode import SamplingConfig
from cosyjax.infer.speak import SynthesisConfig
from cosyjax.infer.speech import Progress, Speech
from cosyjax.infer.stages import Stages, make_stages
from cosyjax.infer.streaming import Streamer, StreamSetup
from cosyjax.infer.voice import Voice, load_voice
from cosyjax.text import normalize

MAX_CHARACTERS = 10_000
END_OF_PROMPT = "<|endofprompt|>"
MIN_SPEED, MAX_SPEED = 0.25, 4.0
CONTROLLERS = ("exact", "official")


def load(bundle: Path | str | None = None, *, dtype: str | None = None) -> Synthesizer:
    """Loads a bundle folder and makes it ready to speak.

    Args:
      bundle: folder made by `cosyjax convert` or `cosyjax bundle`, or "mini" for the model that
        comes with the package; by default that of `$COSYJAX_BUNDLE`, else "mini".
      dtype: "float32" (the official numbers), "bfloat16" (bf16 operands in LM and flow, float32
        accumulation), or None for the faster of both on this machine.

    Raises:
      InputError: no bundle there, a damaged file, or an unknown dtype.
    """
    plan = make_plan(dtype)
    enable_compilation_cache()
    return Synthesizer(load_bundle(shipped.find_bundle(bundle)), plan)


class Synthesizer:
    """A loaded bundle. Holds parameters and voices, and nothing that a call could change."""

    def __init__(self, bundle: Bundle, plan: ComputePlan) -> None:
        self.bundle = bundle
        self.plan = plan
        self.stages: Stages = make_stages(bundle.config, dict(bundle.params), plan)
        self.tokenizer = bundle.tokenizer
        self.sample_rate_hz = shapes.SAMPLE_RATE_HZ
        self.config = SynthesisConfig(
            min_tokens_per_text_token=bundle.config.min_tokens_per_text_token,
            max_tokens_per_text_token=bundle.config.max_tokens_per_text_token,
            num_steps=bundle.config.flow.num_steps,
            guidance_scale=bundle.config.flow.guidance_scale,
        )
        self._streamers: dict[StreamSetup, Streamer] = {}

    def voices(self) -> list[str]:
        """Names of the voices that lie in the bundle."""
        return sorted(self.bundle.voices)

    def voice(self, name: str | Path | Voice | None = None) -> Voice:
        """Finds a voice by name, or loads a voice file; None is the bundle's default voice.

        Raises:
          InputError: neither a voice of the bundle nor a file, naming the nearest.
        """
        if isinstance(name, Voice):
            return name
        name = name or self.bundle.default_voice
        if not name:
            raise InputError("the bundle has no voice; make one with `cosyjax clone`")
        if str(name) in self.bundle.voices:
            return self.bundle.voices[str(name)]
        if str(name).endswith(".safetensors"):
            return load_voice(Path(name))
        known = self.voices()
        hint = nearest(str(name), known) if known else "the bundle has none: `cosyjax clone` one"
        raise InputError(f"no voice {str(name)!r}; {hint}")

    def clone(self, path: Path | str, transcript: str, *, name: str = "", note: str = "") -> Voice:
        """Makes a voice from a prompt recording (0.5 to 30 s) and what is said in it.

        Raises:
          InputError: the recording or the transcript cannot serve; see `prompt.read_prompt`.
        """
        spoken = self.normalize(transcript) if transcript.strip() else ""
        return prompt.make_voice(self.stages, path, spoken, name=name or Path(path).stem, note=note)

    def normalize(self, text: str) -> str:
        """Normalises a text as a whole, as prompt transcripts are."""
        return normalize.normalize(text, normalize.load_spoken_forms())

    def pieces(self, text: str, *, normalized: bool = False) -> list[str]:
        """Normalises and splits a text into the pieces that are spoken one by one.

        Raises:
          InputError: nothing to speak, or more than MAX_CHARACTERS.
        """
        if len(text) > MAX_CHARACTERS:
            raise InputError(
                f"the text has {len(text)} characters; at most {MAX_CHARACTERS} go into one call: "
                "speak it chapter by chapter"
            )
        pieces = normalize.normalize_and_split(
            text,
            self.tokenizer.encode,
            enabled=not normalized,
            spoken_forms=normalize.load_spoken_forms(),
        )
        pieces = [piece for piece in pieces if self.tokenizer.encode(piece)]
        if not pieces or all(normalize.is_only_punctuation(p.replace(" ", "")) for p in pieces):
            raise InputError(f"nothing to speak in {text[:40]!r}: give a text with words in it")
        return pieces

    def conditions(
        self, voice: str | Path | Voice | None = None, mode: str | None = None, instruct: str = ""
    ) -> speak.Conditions:
        """Resolves a voice and a mode to what the models see; see `speak.make_conditions`."""
        found = self.voice(voice)
        mode = mode or ("instruct" if instruct else speak.default_mode(found))
        if mode == "instruct":
            if not instruct.strip():
                raise InputError("mode='instruct' needs an instruction; pass instruct='...'")
            ending = "" if instruct.endswith(END_OF_PROMPT) else END_OF_PROMPT
            tokens = self.tokenizer.encode(instruct + ending)
        elif found.prompt_text_tokens is not None:
            tokens = list(found.prompt_text_tokens)
        else:
            tokens = self.tokenizer.encode(found.prompt_text)
        return speak.make_conditions(found, mode, tokens)

    def speak_pieces(
        self,
        pieces: list[str],
        conditions: speak.Conditions,
        *,
        seed: int = 0,
        speed: float = 1.0,
        sampling: SamplingConfig | None = None,
        config: SynthesisConfig | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (speech tokens [T], wav [N]) of each piece in turn.

        The draws of a piece depend on `seed` and its number, not on the pieces before it.
        """
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise InputError(f"speed={speed}; allowed: {MIN_SPEED} to {MAX_SPEED}")
        sampling, config = sampling or self.bundle.config.sampling, config or self.config
        for index, piece in enumerate(pieces):
            key = jax.random.fold_in(jax.random.key(seed), index)
            text_tokens = np.asarray(self.tokenizer.encode(piece), np.int32)
            tokens = speak.text_to_tokens(
                self.stages, text_tokens, conditions, key, sampling, config
            )
            yield tokens, chunks.tokens_to_wav(
                self.stages, tokens, conditions, key, self.bundle.noise, speed=speed, config=config
            )

    def speak_chunks(
        self, pieces: list[str], conditions: speak.Conditions, *, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """Yields audio in chunks while tokens are decoded, as the official code streams."""
        for index, piece in enumerate(pieces):
            yield from chunks.speak_chunks(
                self.stages,
                np.asarray(self.tokenizer.encode(piece), np.int32),
                conditions,
                jax.random.fold_in(jax.random.key(seed), index),
                self.bundle.noise,
                sampling=self.bundle.config.sampling,
                config=self.config,
            )

    def synthesize(
        self,
        text: str,
        voice: str | Path | Voice | None = None,
        *,
        mode: str | None = None,
        instruct: str = "",
        seed: int = 0,
        speed: float = 1.0,
        normalized: bool = False,
        sampling: SamplingConfig | None = None,
        config: SynthesisConfig | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Speech:
        """Speaks a text of any length up to MAX_CHARACTERS.

        Args:
          text: what to say; it is normalised and split into pieces.
          voice: name in the bundle, path of a voice file, or a Voice; by default the bundle's own.
          mode: see `speak.make_conditions`; by default what the voice allows.
          instruct: an instruction in words, for mode "instruct".
          seed: the same seed gives the same audio.
          speed: 0.25 to 4; above 1 is faster.
          normalized: True passes the text on as it is, in one piece.
          sampling: overrides the bundle's sampling.
          config: overrides the bundle's length ratios, solver steps and guidance.
          progress: called after each piece.

        Raises:
          InputError: bad text, voice, mode or speed.
        """
        pieces = self.pieces(text, normalized=normalized)
        conditions = self.conditions(voice, mode, instruct)
        start, wavs, tokens = time.perf_counter(), [], []
        spoken = self.speak_pieces(
            pieces, conditions, seed=seed, speed=speed, sampling=sampling, config=config
        )
        for piece_tokens, wav in spoken:
            wavs.append(wav)
            tokens.append(piece_tokens)
            if progress:
                audio_s = sum(map(len, wavs)) / self.sample_rate_hz
                elapsed_s = time.perf_counter() - start
                progress(Progress(len(wavs), len(pieces), audio_s, elapsed_s))
        return Speech(np.concatenate(wavs), self.sample_rate_hz, tuple(pieces), tuple(tokens))

    def streamer(self, setup: StreamSetup = StreamSetup()) -> Streamer:
        """Returns what speaks in streams of a setup; the same one for the same setup.

        Raises:
          InputError: a setup that the bundle does not allow.
        """
        if setup not in self._streamers:
            self._streamers[setup] = Streamer(self, setup)
        return self._streamers[setup]

    def stream(
        self,
        text: str | Iterable[str],
        voice: str | Path | Voice | None = None,
        *,
        controller: str = "exact",
        **request: Any,
    ) -> Iterator[np.ndarray]:
        """Speaks while it still computes, and while the text is still being written.

        Args:
          text: a text, or parts of it as they come.
          voice: as in `synthesize`.
          controller: "exact", or "official" for chunks as the official code makes them
            (`official_stream`), which speaks whole texts and takes mode, instruct and seed alone.
          request: mode, instruct, seed, schedule, blocks; see `Streamer.opening`.

        Returns:
          An iterator of waveforms [N] at 24 kHz. `warmup` spares the first ones compilation.

        Raises:
          InputError: see `Streamer.stream`; another controller, or what it cannot take.
        """
        if controller == "official":
            return self._stream_officially(text, voice, **request)
        if controller != "exact":
            raise InputError(f"controller={controller!r}; {nearest(controller, CONTROLLERS)}")
        return self.streamer().stream(text, voice=voice, **request)

    def _stream_officially(
        self,
        text: str | Iterable[str],
        voice: str | Path | Voice | None,
        *,
        mode: str | None = None,
        instruct: str = "",
        seed: int = 0,
    ) -> Iterator[np.ndarray]:
        if not isinstance(text, str):
            raise InputError("controller='official' takes a whole text; give a string")
        return self.speak_chunks(
            self.pieces(text), self.conditions(voice, mode, instruct), seed=seed
        )

    def astream(
        self,
        text: str | Iterable[str] | AsyncIterable[str],
        voice: str | Path | Voice | None = None,
        **request: Any,
    ) -> AsyncIterator[np.ndarray]:
        """`stream` for coroutines."""
        return self.streamer().astream(text, voice=voice, **request)

    def warmup(self) -> None:
        """Compiles the programs of `stream`, and lets each run once."""
        self.streamer().warmup()

    def convert_voice(
        self, path: Path | str, voice: str | Path | Voice, *, seed: int = 0, speed: float = 1.0
    ) -> Speech:
        """Speaks a recording (at most 30 s) again in another voice; the LM is not used.

        Differs: the official code does not cut the prompt's tokens and mel to what both cover in
        this mode alone; here a voice is the same in every mode.
        """
        tokens, conditions, key = self._conversion(path, voice, seed)
        noise = self.bundle.noise
        out = chunks.tokens_to_wav(
            self.stages, tokens, conditions, key, noise, speed=speed, config=self.config
        )
        return Speech(out, self.sample_rate_hz, (), (tokens,))

    def convert_chunks(
        self, path: Path | str, voice: str | Path | Voice, *, seed: int = 0
    ) -> Iterator[np.ndarray]:
        """`convert_voice` in chunks, as the official code streams."""
        tokens, conditions, key = self._conversion(path, voice, seed)
        yield from chunks.tokens_to_chunks(
            self.stages, [tokens], conditions, key, self.bundle.noise, self.config
        )

    def _conversion(
        self, path: Path | str, voice: str | Path | Voice, seed: int
    ) -> tuple[np.ndarray, speak.Conditions, jax.Array]:
        wav, rate_hz = prompt.read_prompt(path)
        wav_16k = prompt.resampled(wav, rate_hz, shapes.TOKENIZER_RATE_HZ)
        tokens = prompt.speech_tokens(self.stages, wav_16k)
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return tokens, self.conditions(voice), key
