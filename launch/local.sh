#!/usr/bin/env bash
# The processes of one run on this machine, started again when one of them dies.
#
#   [PROCESSES=2] launch/local.sh [-n] train --config FILE --workdir DIR ...
#   [PROCESSES=2] launch/local.sh [-n] prepare SRC... OUT ...
#
# In the environment:
#   PROCESSES   how many; default 1, which drives all devices of the machine
#   GPUS_EACH   GPUs of each process; unset: each sees all of them
#   GRACE_S     seconds to save in after SIGTERM; default 300
#   RESTARTS, FRUITLESS, PAUSE_S, DRY_RUN: see launch/common.sh
#
# A training run cannot lose a member: when one dies the others are killed, and all start again from
# the last checkpoint. Processes of prepare share nothing but the folder: the others finish first.
# SIGTERM and SIGINT are passed on; the run saves, and its status is the launcher's.
set -um # with -m every process leads a group of its own, so that nothing of it is left behind

# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
PROCESSES=${PROCESSES:-1}
GRACE_S=${GRACE_S:-300}
read_arguments "$@"
whole_number PROCESSES 1
whole_number GRACE_S 0
[ -z "${GPUS_EACH:-}" ] || whole_number GPUS_EACH 1

# Sets `words` to the command of process $1 on port $2.
command_of() {
    local first own
    words=(cosyjax "$verb" "${arguments[@]}")
    if ((PROCESSES > 1)); then
        words+=(--process "$1" --num-processes "$PROCESSES")
        [ "$verb" = prepare ] || words+=(--coordinator "127.0.0.1:$2")
    fi
    if [ -n "${GPUS_EACH:-}" ]; then
        first=$(($1 * GPUS_EACH))
        own=$(seq -s, "$first" $((first + GPUS_EACH - 1)))
        words=(env "CUDA_VISIBLE_DEVICES=$own" "${words[@]}")
    fi
}

# A port on which nobody answers: a new one for every start, the old one may not be free at once.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s' "$port"
}

start_all() {
    local number port
    port=$(free_port)
    pids=()
    for ((number = 0; number < PROCESSES; number++)); do
        command_of "$number" "$port"
        # Where Linux can, the kernel asks them to end should the launcher itself be killed.
        command -v setpriv >/dev/null && words=(setpriv --pdeathsig TERM "${words[@]}")
        "${words[@]}" </dev/null &
        pids+=($!)
    done
    [ -z "$asked" ] || ask_all # a signal between the starts
}

# Sends a signal to each process, or with a group's sign to all that it has started.
send_all() {
    local pid
    for pid in "${pids[@]}"; do
        kill -s "$1" -- "${2:-}$pid" 2>/dev/null
    done
}

ask_all() {
    asked=1
    send_all TERM
}

# Waits for all, and returns the first status that is not 0.
wait_for_all() {
    local left=${#pids[@]} status first=0
    while ((left)); do
        wait -n
        status=$?
        if [ -n "$asked" ]; then
            end_in_time
            return
        fi
        ((left--))
        ((status)) || continue
        ((first)) || first=$status
        [ "$verb" = prepare ] || break
    done
    send_all KILL -
    wait
    return "$first"
}

# After a signal: waits while they save, and returns the first status that is not 0.
end_in_time() {
    local pid status first=0 end=$((SECONDS + GRACE_S))
    for pid in "${pids[@]}"; do
        while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)); do
            nap 0.2
        done
    done
    send_all KILL -
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null
        status=$?
        # 127: it had ended well before the signal, and was counted.
        ((status == 0 || status == 127 || first)) || first=$status
    done
    return "$first"
}

if [ -n "$DRY_RUN" ]; then
    port=$(free_port)
    for ((number = 0; number < PROCESSES; number++)); do
        command_of "$number" "$port"
        shown "${words[@]}"
    done
    exit 0
fi
asked=''
pids=()
trap ask_all TERM INT
reached=$(progress)
while :; do
    start_all
    wait_for_all
    status=$?
    [ -z "$asked" ] && ((status)) && another_start "$status" || exit "$status"
    nap "$PAUSE_S"
    [ -z "$asked" ] || exit "$status"
done
