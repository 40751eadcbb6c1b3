# shellcheck shell=bash
# On every worker of a queued resource, sent by launch/tpu_queued.sh with its arguments before it:
#   NAME IMAGE BUCKET COMMAND...
# Mounts the bucket, starts the container unless it runs, shows what it says, and ends as it ends.
set -eu
name=$1 image=$2 bucket=$3
shift 3

if ! mountpoint -q /bucket; then
    if ! command -v gcsfuse >/dev/null; then
        key=/usr/share/keyrings/cloud.google.asc
        packages=https://packages.cloud.google.com/apt
        curl -fsSL $packages/doc/apt-key.gpg | sudo tee $key >/dev/null
        echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get update -q
        sudo apt-get install -y -q gcsfuse
    fi
    sudo mkdir -p /bucket
    # Nothing remembered of other workers' files: they meet in the folders of checkpoints.
    sudo gcsfuse -o allow_other --metadata-cache-ttl-secs 0 --metadata-cache-negative-ttl-secs 0 \
        "$bucket" /bucket
fi

if [ "$(sudo docker inspect --format '{{.State.Running}}' "$name" 2>/dev/null)" != true ]; then
    sudo docker rm --force "$name" >/dev/null 2>&1 || true
    case $image in
        *-docker.pkg.dev/* | gcr.io/*) sudo gcloud auth configure-docker "${image%%/*}" --quiet ;;
    esac
    sudo docker pull --quiet "$image"
    sudo docker run --detach --name "$name" --privileged --network host --shm-size 16g \
        --stop-timeout 120 --volume /bucket:/bucket --env COSYJAX_CACHE_DIR=/bucket/cache/xla \
        "$image" "$@" >/dev/null
fi
sudo docker logs --follow --tail 1000 "$name"
exit "$(sudo docker wait "$name")"
