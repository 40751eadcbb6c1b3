#!/usr/bin/env bash
# cosyjax-mini from recordings to the bundle that the package ships.
#
#   launch/mini/train.sh CORPUS WORK [MORE...]
#
# CORPUS  folder with train/ and heldout/, each with tar shards and manifests
# WORK    folder for data, runs and the bundle (WORK/mini)
# MORE    further folders of recordings in the form of CORPUS/train
#
# READINGS in the environment is a manifest (.jsonl or .jsonl.gz) of texts with their pronunciation
# (text, phonemes): from it the language model learns to spell before it hears speech.
#
# REHEARSE=1 in the environment takes two steps of each stage: do all commands work here?
#
# Every step goes on where it was stopped, and one that is done takes seconds: after a stop, give the
# same command again. With WHISPER (the folder of a CTranslate2 Whisper) set, the bundle is judged on
# the held-out sentences at the end. Voices are cut from CORPUS/train; see voices.jsonl.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
    exit 2
fi
home=$(cd "$(dirname "$0")/../.." && pwd)
corpus=$(cd "$1" && pwd)
READINGS=${READINGS:+$(realpath "$READINGS")}
WHISPER=${WHISPER:+$(realpath "$WHISPER")}
mkdir -p "$2"
work=$(cd "$2" && pwd)
shift 2
recordings=("$corpus/train" "$corpus/heldout")
for folder in "$@"; do
    recordings+=("$(cd "$folder" && pwd)")
done
cd "$home"

short=()
if [ -n "${REHEARSE:-}" ]; then
    for change in num_steps=2 eval_every=2 eval_batches=1 checkpoint_every=2 log_every=1 \
        optimizer.warmup_steps=1 optimizer.decay_steps=1; do
        short+=(--set "$change")
    done
fi

# Trains a stage: its run, its config, its data, and further changes of the config.
train() {
    local name=$1 config=$2 data=$3
    shift 3
    cosyjax train --config "configs/$config" --workdir "$work/runs/$name" \
        --set "data.sources=[{'path':'$data'}]" "$@" "${short[@]}"
}

# Learns a text tokenizer unless it is there.
vocabulary() {
    [ -f "$2/tokenizer.json" ] || cosyjax vocabulary "$1" "$2" --size "$3"
}

# 1. Recordings with their pronunciation, for the speech tokenizer to recognise, and with their text.
cosyjax prepare "${recordings[@]}" "$work/phonemes" --text-key phonemes --parts 16
cosyjax prepare "${recordings[@]}" "$work/data" --parts 16
vocabulary "$work/phonemes" "$work/phones" 512
vocabulary "$work/data" "$work/letters" 276

# 2. What reads recordings: speech tokens and speaker embeddings.
train tokenizer mini_tokenizer.py "$work/phonemes" --set "data.tokenizer=$work/phones"
train speaker mini_speaker.py "$work/data"
cosyjax bundle "$work/runs/tokenizer" "$work/runs/speaker" "$work/front" \
    --partial --tokenizer "$work/letters" --force
cosyjax prepare "$work/data" "$work/data" --bundle "$work/front"

# 3. What speaks. No stage here waits for another, so that several machines can share them.
start=()
if [ -n "${READINGS:-}" ]; then
    [ -f "$work/readings/prepare.json" ] || cosyjax readings "$READINGS" "$work/readings" \
        --letters "$work/letters" --phones "$work/phones"
    train lm_readings mini_lm.py:readings=true "$work/readings"
    start=(--set "init_from=$work/runs/lm_readings")
fi
train lm mini_lm.py "$work/data" "${start[@]}"
train flow mini_flow.py "$work/data"
train vocoder_mel mini_vocoder.py:run=mel "$work/data"
train vocoder_pitch mini_vocoder.py:run=pitch "$work/data" \
    --set "init_from=$work/runs/vocoder_mel"
train vocoder mini_vocoder.py "$work/data" --set "init_from=$work/runs/vocoder_pitch"

# 4. The bundle, with its voices and its card.
cosyjax bundle "$work/runs/lm" "$work/runs/flow" "$work/runs/vocoder" "$work/mini" \
    --base "$work/front" --store int8 --card docs/model_card.md --force \
    --set min_tokens_per_text_token=0.8 --set max_tokens_per_text_token=4.0 \
    --voices launch/mini/voices.jsonl --recordings "$corpus/train"
echo "to ship it: rm -rf cosyjax/assets/mini && cp -r $work/mini cosyjax/assets/mini"

# 5. What independent judges make of it.
if [ -n "${WHISPER:-}" ]; then
    judge() {
        local name=$1
        shift
        cosyjax eval --sentences "$corpus/heldout/heldout-000.jsonl" --languages en \
            --asr "$WHISPER" --bundle "$work/mini" --json "$work/$name.json" "$@"
    }
    judge recordings --recordings
    judge resynthesis --resynthesis
    judge whole --voices rotate
    judge stream --voices rotate --stream
fi
