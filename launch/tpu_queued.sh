#!/usr/bin/env bash
# A run on TPU slices from the queue of Google Cloud, had anew when they are taken away.
#
#   NAME=lm TYPE=v5e-256 ... launch/tpu_queued.sh [-n] train --config FILE --workdir /bucket/... ...
#   NAME=data TYPE=v5e-8 ... launch/tpu_queued.sh [-n] prepare /bucket/SRC /bucket/OUT ...
#
# In the environment:
#   NAME             of the queued resource
#   TYPE             slice, see launch/tpus.sh
#   ZONE             such as us-west4-b
#   IMAGE            container with cosyjax and configs/, see launch/Dockerfile
#   BUCKET           mounted at /bucket on every worker; it needs a hierarchical namespace
#   SLICES           default 1; more are one run over the data-centre network
#   SPOT=1           spot capacity
#   PROCESSES        for prepare: so many queued resources NAME-0, ... of one host each; default 1
#   PROJECT          default: gcloud's
#   SERVICE_ACCOUNT  of the workers; default: the project's for Compute Engine
#   CREATE_OPTIONS   further words for `gcloud compute tpus queued-resources create`
#   KEEP=1           leave the slices there at the end
#   LOG              file for what the workers say; default NAME.log
#   POLL_S           seconds between looks at the state; default 30
#   RESTARTS, FRUITLESS, PAUSE_S, DRY_RUN: see launch/common.sh
#
# The workers run without the launcher: after it was stopped, the same command watches them again. A
# resource that failed or was preempted is deleted and asked for anew. Stopping the launcher leaves
# the slices, which cost money, and says how to delete them.
set -um # with -m what watches the workers leads a group of its own, and none of it is left behind

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/common.sh"
# shellcheck source=launch/tpus.sh
source "$here/tpus.sh"
read_arguments "$@"
for variable in NAME TYPE ZONE IMAGE BUCKET; do
    [ -n "${!variable:-}" ] || refuse "$variable is not set; see the header of $0"
done
SLICES=${SLICES:-1}
PROCESSES=${PROCESSES:-1}
POLL_S=${POLL_S:-30}
LOG=${LOG:-$NAME.log}
for variable in SLICES PROCESSES; do
    whole_number "$variable" 1
done
whole_number POLL_S 0
read_tpu "$TYPE"
command -v gcloud >/dev/null || [ -n "$DRY_RUN" ] || refuse "gcloud is not installed"
[[ $folder == /bucket/* ]] || refuse "$folder: BUCKET is mounted at /bucket; give a folder below it"
if [ "$verb" = prepare ] && ((hosts * SLICES > 1)); then
    refuse "TYPE=$TYPE SLICES=$SLICES: prepare takes slices of one host; PROCESSES says how many"
fi

# prepare by several: a launcher for each, on a resource of its own.
if ((PROCESSES > 1)); then
    [ "$verb" = prepare ] || refuse "PROCESSES=$PROCESSES: train has one for every host of TYPE"
    export PROCESS NUM_PROCESSES=$PROCESSES DRY_RUN
    family=$NAME
    pids=()
    trap 'kill "${pids[@]}" 2>/dev/null' TERM INT
    for ((PROCESS = 0; PROCESS < NUM_PROCESSES; PROCESS++)); do
        NAME=$family-$PROCESS
        LOG=$NAME.log
        PROCESSES=1
        export NAME LOG PROCESSES
        "$0" "$verb" "${arguments[@]}" &
        pids+=($!)
    done
    worst=0
    for pid in "${pids[@]}"; do
        wait_through "$pid" || worst=$?
    done
    exit "$worst"
fi

where=("--zone=$ZONE")
[ -z "${PROJECT:-}" ] || where+=("--project=$PROJECT")
create=(gcloud compute tpus queued-resources create "$NAME" "${where[@]}")
create+=("--accelerator-type=$accelerator" "--runtime-version=$runtime")
if ((SLICES > 1)); then
    create+=("--node-count=$SLICES" "--node-prefix=$NAME")
else
    create+=("--node-id=$NAME")
fi
[ -z "${SPOT:-}" ] || create+=(--spot)
[ -z "${SERVICE_ACCOUNT:-}" ] || create+=("--service-account=$SERVICE_ACCOUNT")
read -ra further <<<"${CREATE_OPTIONS:-}"
create+=("${further[@]}")
delete=(gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet)

words=(cosyjax "$verb" "${arguments[@]}")
if [ "$verb" = train ]; then
    words+=(--stopped-status "$STOPPED")
    ((hosts * SLICES == 1)) || words+=(--coordinator auto)
else
    words+=(--process "${PROCESS:-0}" --num-processes "${NUM_PROCESSES:-1}")
fi
remote="$(shown set -- "$NAME" "$IMAGE" "$BUCKET" "${words[@]}")
$(cat "$here/tpu_worker.sh")"
# All workers at once: by default gcloud would not reach the 65th before the first is through.
on_workers=(gcloud compute tpus queued-resources ssh "$NAME" "${where[@]}")
on_workers+=(--node=all --worker=all --batch-size=all "--command=$remote")

if [ -n "$DRY_RUN" ]; then
    echo "# once"
    shown "${create[@]}"
    echo "# when it is ACTIVE, on $((hosts * SLICES)) workers of $chips chips"
    shown "${words[@]}"
    echo "# when it is FAILED, SUSPENDING or SUSPENDED, and then once more from the start"
    shown "${delete[@]}"
    exit 0
fi

# A state of a queued resource, ABSENT, or UNKNOWN where Google does not answer.
state() {
    local said
    if said=$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
        '--format=value(state.state)' 2>&1); then
        printf '%s' "$said"
    elif [[ $said == *NOT_FOUND* ]]; then
        printf ABSENT
    else
        say "${said##*$'\n'}"
        printf UNKNOWN
    fi
}

# How far the run is, as the bucket has it: see `progress` in launch/common.sh.
progress() {
    local there=gs://$BUCKET/${folder#/bucket/}
    if [ "$verb" = prepare ]; then
        gcloud storage ls "$there/**/part.json" 2>/dev/null | wc -l
    else
        gcloud storage ls "$there/checkpoints/" 2>/dev/null |
            sed -nE 's|.*/([0-9]+)/$|\1|p' | sort -n | tail -n 1 | grep . || echo 0
    fi
}

stop_watching() {
    [ -z "$watcher" ] || kill -- "-$watcher" 2>/dev/null
}

# Runs on all workers to the end, or until the slices are taken away; returns the worst status.
watch_workers() {
    "${on_workers[@]}" > >(tee -a "$LOG") 2>&1 &
    watcher=$!
    while kill -0 "$watcher" 2>/dev/null; do
        sleep "$POLL_S" &
        wait -n "$watcher" "$!"
        case $(state) in
            ACTIVE | UNKNOWN) ;;
            *) stop_watching ;;
        esac
    done
    wait_through "$watcher"
}

leave() {
    stop_watching
    say "stopped watching; $NAME goes on. The same command watches again; to end it:"
    say "$(shown "${delete[@]}")"
    exit 143
}

end() {
    [ -n "${KEEP:-}" ] || "${delete[@]}"
    exit "$1"
}

watcher=''
trap leave TERM INT
reached=$(progress)
refusals=0
told=''
while :; do
    now=$(state)
    [ "$now" = "$told" ] || say "$NAME is $now"
    told=$now
    case $now in
        ABSENT)
            ((refusals < FRUITLESS)) || refuse "gave up: refused $refusals times (FRUITLESS)"
            "${create[@]}" || ((++refusals))
            ;;
        ACTIVE)
            refusals=0
            watch_workers
            status=$?
            ((status)) || end 0
            now=$(state)
            # Of a preemption the state tells; what is ACTIVE still has failed by itself.
            if [ "$now" = ACTIVE ]; then
                ((status == STOPPED)) || another_start "$status" || end "$status"
                nap "$PAUSE_S"
            fi
            ;;
        FAILED | SUSPENDING | SUSPENDED)
            [ "$now" != FAILED ] || ((++refusals))
            "${delete[@]}"
            ;;
    esac
    [ "$now" = ACTIVE ] || nap "$POLL_S"
done
