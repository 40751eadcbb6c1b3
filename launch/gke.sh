#!/usr/bin/env bash
# A run, or the preparation of its data, on a Kubernetes cluster of Google Cloud.
#
#   NAME=lm TYPE=v5e-256 ... launch/gke.sh [-n] train --config FILE --workdir /bucket/... ...
#   NAME=data PROCESSES=32 ... launch/gke.sh [-n] prepare /bucket/SRC /bucket/OUT ...
#
# In the environment:
#   NAME             of the JobSet or Job
#   TYPE             slice, see launch/tpus.sh; for prepare of one host, or unset for CPUs
#   IMAGE            container with cosyjax and configs/, see launch/Dockerfile
#   BUCKET           mounted at /bucket; it needs a hierarchical namespace
#   SLICES           default 1; more are one run over the data-centre network
#   SPOT=1           spot capacity
#   PROCESSES        pods of prepare; default 1
#   CPUS, MEMORY     of a pod of prepare; default 8 and 32Gi
#   GRACE_S          seconds to save in after SIGTERM; default 120. A spot node gives some 25 of them
#   RESTARTS         after failures, those by preemption not counted; default 20
#   SERVICE_ACCOUNT  of Kubernetes, that may write to BUCKET; default: default
#   QUEUE            local queue of Kueue, where the cluster has it
#   CLUSTER, ZONE, PROJECT   for the line of xpk alone
#   DRY_RUN=1        as -n: print the manifest, and on stderr the same job as a command of xpk
#
# kubectl's current context and namespace are used. The cluster needs JobSet and, for /bucket, the
# Cloud Storage FUSE driver with Workload Identity.
set -u

here=$(cd "$(dirname "$0")" && pwd)
RESTARTS=${RESTARTS:-20}
# shellcheck source=launch/common.sh
source "$here/common.sh"
# shellcheck source=launch/tpus.sh
source "$here/tpus.sh"
read_arguments "$@"
needed=(NAME IMAGE BUCKET)
[ "$verb" = prepare ] || needed+=(TYPE)
for variable in "${needed[@]}"; do
    [ -n "${!variable:-}" ] || refuse "$variable is not set; see the header of $0"
done
# Kubernetes adds to the name what tells slices and pods apart, up to 63 characters.
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    refuse "NAME=$NAME: at most 40 small letters, digits and -, beginning with a letter"
[[ $folder == /bucket/* ]] || refuse "$folder: BUCKET is mounted at /bucket; give a folder below it"

# What the templates ask for.
export NAME IMAGE BUCKET RESTARTS STOPPED
export TYPE=${TYPE:-} SPOT=${SPOT:-} QUEUE=${QUEUE:-} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
export SLICES=${SLICES:-1} PROCESSES=${PROCESSES:-1} GRACE_S=${GRACE_S:-120}
export CPUS=${CPUS:-8} MEMORY=${MEMORY:-32Gi} SELECTS=$TYPE$SPOT
for variable in SLICES PROCESSES GRACE_S; do
    whole_number "$variable" 1
done
if [ -n "$TYPE" ]; then
    read_tpu "$TYPE"
    export NODE_LABEL=$node_label TOPOLOGY=$topology HOSTS=$hosts CHIPS=$chips
fi
if [ "$verb" = prepare ] && [ -n "$TYPE" ] && ((hosts > 1)); then
    refuse "TYPE=$TYPE: prepare takes slices of one host; PROCESSES says how many"
fi
if [ "$verb" = train ]; then
    arguments+=(--stopped-status "$STOPPED")
else
    # Kubernetes puts the number of the pod in.
    arguments+=(--process "\$(JOB_COMPLETION_INDEX)" --num-processes "$PROCESSES")
fi

# Words as a list of JSON, which YAML reads as it is.
json_list() {
    local word list=''
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        list+="${list:+, }\"${word//$'\n'/\\n}\""
    done
    printf '[%s]' "$list"
}

# The template $1 with the words of the environment.
fill() {
    awk '
        match($0, / +# if [A-Z]+$/) {
            name = substr($0, RSTART)
            $0 = substr($0, 1, RSTART - 1)
            sub(/ +# if /, "", name)
            if (ENVIRON[name] == "") next
        }
        /^#/ { next }
        {
            line = ""
            while (match($0, /@[A-Z_]+@/)) {
                name = substr($0, RSTART + 1, RLENGTH - 2)
                line = line substr($0, 1, RSTART - 1) ENVIRON[name]
                $0 = substr($0, RSTART + RLENGTH)
            }
            print line $0
        }' "$1"
}

# The same training as a command of xpk, for clusters that it has made.
xpk_lines() {
    local attach create
    attach=(xpk storage attach "$BUCKET" --type=gcsfuse "--bucket=$BUCKET" --mount-point=/bucket)
    attach+=(--readonly=false --auto-mount=false "--cluster=${CLUSTER:-CLUSTER}")
    create=(xpk workload create "--workload=$NAME" "--cluster=${CLUSTER:-CLUSTER}")
    [ -z "${ZONE:-}" ] || create+=("--zone=$ZONE") attach+=("--zone=$ZONE")
    [ -z "${PROJECT:-}" ] || create+=("--project=$PROJECT") attach+=("--project=$PROJECT")
    create+=("--tpu-type=$accelerator" "--num-slices=$SLICES" "--max-restarts=$RESTARTS")
    create+=("--termination-grace-period-seconds=$GRACE_S" "--restart-on-exit-codes=1,$STOPPED")
    create+=("--docker-image=$IMAGE" "--storage=$BUCKET")
    [ -z "$SPOT" ] || create+=(--spot)
    create+=("--command=$(shown cosyjax "$verb" "${arguments[@]}")")
    shown "${attach[@]}"
    shown "${create[@]}"
}

ARGS=$(json_list "$verb" "${arguments[@]}")
export ARGS
manifest=$(fill "$here/gke_$verb.yaml")
if [ -n "$DRY_RUN" ]; then
    printf '%s\n' "$manifest"
    [ "$verb" = prepare ] || xpk_lines >&2
    exit 0
fi
command -v kubectl >/dev/null || refuse "kubectl is not installed"
printf '%s\n' "$manifest" | kubectl create -f - || exit
kind=$([ "$verb" = train ] && echo jobset || echo job)
label=$([ "$verb" = train ] && echo jobset.sigs.k8s.io/jobset-name || echo job-name)
say "watch it: kubectl get $kind $NAME; kubectl logs -f --prefix -l $label=$NAME -c cosyjax"
say "end it: kubectl delete $kind $NAME; for the same NAME once more, delete it first"
