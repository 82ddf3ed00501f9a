#!/usr/bin/env bash
# `make image-test`: builds the cpu image without a container engine, and trains two steps of the demo in it, without a
# network and without privileges. Needs root, 16 GB of memory, 16 GB of disk under TMPDIR, and Debian's packages buildah,
# mmdebstrap, crun and iproute2. All it makes is in one folder, which is removed at the end.
#
#   BUILD_ARGS   for `buildah build`: --secret id=pip,src=pip.conf for the index, --volume for folders that it names
#   JOB_ARGS     settings of the job, more than `num_steps=2`
#   STORAGE      driver of the layers: overlay, or vfs where the kernel has none
# shellcheck disable=SC2016,SC2086 # what runs in the image is expanded there; a variable may hold several options
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d -t sdft-image.XXXXXX)
export BUILDAH_ISOLATION=chroot
images() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE:-overlay}" "$@"; }
clean() {
    images rm --all > "$work/clean.log" 2>&1 || cat "$work/clean.log" >&2
    umount "$work/storage/overlay" 2> /dev/null || true # buildah leaves it mounted, if this driver was used
    rm -rf "$work"
}
trap clean EXIT

for tool in buildah mmdebstrap crun ip; do
    command -v "$tool" > /dev/null || { echo "$tool is needed: apt-get install buildah mmdebstrap crun iproute2" >&2; exit 1; }
done

# The bases are made of Debian's packages; each stands for the image of Python that the Dockerfile names.
base() { # NAME PACKAGES
    mmdebstrap --quiet --variant=minbase --include="$2" bookworm "$work/$1.tar"
    container=$(images from scratch)
    images add --quiet "$container" "$work/$1.tar" > /dev/null
    images commit --quiet --rm "$container" "$1" > /dev/null
    rm "$work/$1.tar"
}
base build-base ca-certificates,python3,python3-venv,python3-dev,g++
base run-base ca-certificates,python3
echo "bases made: $SECONDS s"

started=$SECONDS
images build --quiet --format docker --file docker/Dockerfile --target cpu --tag sdft_ray:cpu \
    --build-arg BUILD_IMAGE=localhost/build-base --build-arg BASE_IMAGE=localhost/run-base \
    --build-arg REVISION="$(git rev-parse HEAD)" ${BUILD_ARGS:-} . > /dev/null
echo "image built: $((SECONDS - started)) s"

images from --quiet --name job sdft_ray:cpu > /dev/null
echo "image: $(images inspect --format '{{.OCIv1.Config.Labels}}, user {{.OCIv1.Config.User}}' job)"
echo "image size: $(du --summarize --block-size=1M "$(images mount job)" | cut -f1) MiB"
images umount job > /dev/null
health=$(images inspect --format '{{range slice .Docker.Config.Healthcheck.Test 1}}{{.}} {{end}}' job)

# In a network of its own: nothing can be downloaded, and the port of the health check is nobody else's.
unshare --net bash -c 'ip link set lo up && exec "$@"' - \
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE:-overlay}" \
    run job -- bash -euc '
    health=$1; shift
    [ "$(id -u)" != 0 ] || { echo "the image runs as root" >&2; exit 1; }
    for tool in cc gcc g++ make ld; do
        ! command -v $tool || { echo "the image has build tools" >&2; exit 1; }
    done
    ! $health || { echo "healthy without a Ray node" >&2; exit 1; }
    sdft +cluster=local +experiment=demo name=image num_steps=2 "$@" &
    until $health; do
        kill -0 $! || { echo "the job ended before it was healthy" >&2; exit 1; }
        sleep 1
    done
    echo "healthy"
    wait $!
    for file in metrics.jsonl samples.jsonl summary.json model/config.json; do
        [ -s "runs/image/$file" ] || { echo "the job left no runs/image/$file" >&2; exit 1; }
    done
    ' - "$health" ${JOB_ARGS:-}
echo "two steps of the demo ran in the image"
