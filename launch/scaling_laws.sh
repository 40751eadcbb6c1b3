#!/usr/bin/env bash
# Scaling laws of the language model: a grid of sizes and compute budgets, and the fit of its table.
#
#   launch/scaling_laws.sh DATA WORK [--worker I --workers N] [ARGUMENTS OF cosyjax train...]
#
# DATA  features of `cosyjax prepare`
# WORK  folder for runs, table.csv, fit.json and fit.png
#
# In the environment:
#   DEPTHS   sizes, default "6 8 10 12 14 16"
#   BUDGETS  FLOPs of a run, default "1e18 3e18 1e19"
#   CONFIG   what else configs/lm_scaling.py is to be told, e.g. "head=16,text_vocab=276"
#   FIT      what else `cosyjax scaling fit` is to be told, e.g. "--budget 1e21"
#   REHEARSE=1  two steps a run, in WORK/rehearsal: do all commands work here?
#   DRY_RUN=1   print the commands of the missing runs, and do nothing
#
# Runs that stand in the table are skipped, and a run that was stopped goes on: after a stop, give the
# same command again. Runs wait for nothing, so that workers can share WORK: each takes every N-th
# run (a SLURM array says which by itself), and the one that fills the table fits it.
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
    exit 2
fi
home=$(cd "$(dirname "$0")/.." && pwd)
data=$(cd "$1" && pwd)
work=$(realpath -m "$2")
shift 2
worker=${SLURM_ARRAY_TASK_ID:-0}
workers=${SLURM_ARRAY_TASK_COUNT:-1}
worker=$((worker - ${SLURM_ARRAY_TASK_MIN:-0}))
while [ $# -gt 0 ]; do
    case $1 in
        --worker) worker=$2 && shift 2 ;;
        --workers) workers=$2 && shift 2 ;;
        *) break ;;
    esac
done
if ! [[ $worker =~ ^[0-9]+$ && $workers =~ ^[1-9][0-9]*$ ]] || [ "$worker" -ge "$workers" ]; then
    echo "--worker $worker --workers $workers: workers are numbered from 0 to their number - 1" >&2
    exit 2
fi
cd "$home"
read -ra depths <<<"${DEPTHS:-6 8 10 12 14 16}"
read -ra budgets <<<"${BUDGETS:-1e18 3e18 1e19}"
read -ra fit <<<"${FIT:-}"
short=()
if [ -n "${REHEARSE:-}" ]; then
    work=$work/rehearsal
    short=(--set num_steps=2 optimizer.warmup_steps=1 eval_batches=1)
fi
table=$work/table.csv
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

# Whether the table holds the run of a depth and a budget.
finished() {
    [ -f "$table" ] && awk -F, -v depth="$1" -v budget="$2" '
        NR > 1 && $1 + 0 == depth + 0 && $2 + 0 == budget + 0 { found = 1 }
        END { exit !found }' "$table"
}

# Prints a command, or runs it.
run() {
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

[ -n "${DRY_RUN:-}" ] || mkdir -p "$work/runs"
number=0
failed=()
for budget in "${budgets[@]}"; do
    for depth in "${depths[@]}"; do
        number=$((number + 1))
        if [ $(((number - 1) % workers)) -ne "$worker" ] || finished "$depth" "$budget"; then
            continue
        fi
        workdir=$work/runs/d${depth}_c$budget
        config=configs/lm_scaling.py:depth=$depth,flops=$budget${CONFIG:+,$CONFIG}
        # A run that fails does not keep the others waiting.
        run cosyjax train --quiet --config "$config" --workdir "$workdir" \
            --set "data.sources=[{'path':'$data'}]" "${short[@]}" "$@" &&
            run cosyjax scaling add "$workdir" "$table" --budget "$budget" --commit "$commit" ||
            failed+=("$workdir")
    done
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi

missing=0
for budget in "${budgets[@]}"; do
    for depth in "${depths[@]}"; do
        finished "$depth" "$budget" || missing=$((missing + 1))
    done
done
if [ "$missing" -gt 0 ] && [ -z "${DRY_RUN:-}" ]; then
    echo "$missing runs are missing; they are other workers'"
    exit 0
fi
run cosyjax scaling fit "$table" --json "$work/fit.json" --plot "$work/fit.png" "${fit[@]}" ||
    [ -n "${REHEARSE:-}" ] # two steps make no law, and that is what it says
