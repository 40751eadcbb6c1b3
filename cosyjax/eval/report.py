"""A folder to read, look at and listen to: index.html with tables, spectrograms and audio."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosyjax.eval.run import MAX_SHOWN, Clip, Gallery
from cosyjax.io import plots
from cosyjax.io.atomic import atomic_folder
from cosyjax.io.audio import write_audio

INDEX = "index.html"
NUM_WORST = 20
STYLE = """\
body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.3em .8em;border-bottom:1px solid #ddd}
td{text-align:right}td:first-child,th:first-child{text-align:left}
.clip{margin:2em 0}.clip img{max-width:100%;display:block}.heard{color:#a00}
code{word-break:break-all}
"""
HEAD = ("", "clips", "WER", "CER", "similarity", "nearest", "MOS", "RTF", "first audio")


def write_report(path: Path, result: Mapping[str, Any], gallery: Gallery) -> None:
    """Writes the report folder whole or not at all.

    Args:
      path: folder to make; a report that stands there is replaced.
      result: what the JSON holds.
      gallery: the clips to show.

    Raises:
      InputError: a folder with other things in the way, or a full disk.
    """
    with atomic_folder(path, force=True, marks=(INDEX,)) as folder:
        worst = _clips(folder, "worst", gallery.worst())
        first = _clips(folder, "voice", gallery.first())
        (folder / INDEX).write_text(_page(result, worst, first), encoding="utf-8")


def table(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of text: all, then each language and each voice where there are several, not many."""
    rows = [HEAD, ("all", *_cells(result))]
    for field in ("by_lang", "by_voice"):
        parts = result[field]
        if 1 < len(parts) <= MAX_SHOWN:
            rows += [(name or "(unknown)", *_cells(parts[name])) for name in parts]
    return rows


def _cells(summary: Mapping[str, Any]) -> tuple[str, ...]:
    mos = summary["mos"]
    opinions = [f"{name} {next(iter(values.values())):.2f}" for name, values in mos.items()]
    return (
        str(summary["num_utterances"]),
        _percent(summary["wer"], summary["wer_ci"]),
        _percent(summary["cer"], summary["cer_ci"]),
        _number(summary["similarity"], "{:.3f}"),
        _percent(summary["nearest_is_asked"]),
        ", ".join(opinions) or "-",
        _number(summary["rtf"], "{:.2f}"),
        _number(summary["first_audio_ms"], "{:.0f} ms"),
    )


def _percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "-"
    spread = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{100 * value:.1f} %{spread}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _page(result: Mapping[str, Any], worst: str, first: str) -> str:
    head, *rows = table(result)
    cells = lambda row, tag: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    judges = ", ".join(f"{kind}: {name}" for kind, name in result["judges"].items() if name)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>cosyjax eval</title><style>{STYLE}</style>
<h1>cosyjax eval: {html.escape(result["source"])}</h1>
<p><code>{html.escape(result["command"])}</code></p>
<p>{html.escape(judges)}. In brackets: 95 % bootstrap intervals over utterances.</p>
<table><tr>{cells(head, "th")}</tr>
{body}
</table>
<h2>Most errors</h2>
{worst or "<p>None.</p>"}
<h2>A clip of each voice</h2>
{first}
</html>
"""


def _clips(folder: Path, kind: str, clips: Sequence[Clip]) -> str:
    """Writes audio and pictures; returns the HTML that shows them."""
    shown = []
    for number, (row, wav, rate_hz) in enumerate(clips):
        name, media = f"{kind}-{number:02d}", ""
        if len(wav):
            write_audio(folder / f"{name}.wav", wav, rate_hz)
            media = f'<audio controls src="{name}.wav"></audio>'
            if plots.available():
                plots.plot_spectrogram(wav, rate_hz, folder / f"{name}.png")
                media += f'<img src="{name}.png" alt="spectrogram">'
        title = f"{row['id']} ({row['voice'] or 'unknown voice'}), {row['unit']} errors: "
        shown.append(
            f'<div class="clip"><b>{html.escape(title + _percent(row["error_rate"]))}</b><br>'
            f'{html.escape(row["text"])}<br>'
            f'<span class="heard">{html.escape(row["heard"] or "")}</span>{media}</div>'
        )
    return "\n".join(shown)
