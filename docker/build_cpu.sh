#!/usr/bin/env bash
# Build the cpu image without a Docker engine and without a registry: buildah, on a Debian that debootstrap makes.
#
#   apt-get install buildah debootstrap
#   docker/build_cpu.sh [--rootfs DIR] [--tag NAME] [-- OPTIONS OF buildah build]
#
# --rootfs DIR   a Debian root file system with python3 and python3-venv; without it, one is made (2 minutes, root only)
# --tag NAME     of the image; default crossthink:cpu
#
# A package index of your own: `-- --volume /etc/pip.conf:/etc/pip.conf:ro --build-arg TORCH_INDEX=`. Mounts are there
# while it builds, and are not in the image.
set -euo pipefail

rootfs=''
tag=crossthink:cpu
while [ $# -gt 0 ]; do
    case $1 in
        --rootfs) rootfs=${2:?--rootfs needs a folder}; shift 2 ;;
        --tag) tag=${2:?--tag needs a name}; shift 2 ;;
        --) shift; break ;;
        *) echo "build_cpu.sh: $1 is not an option: --rootfs DIR, --tag NAME, -- OPTIONS" >&2; exit 2 ;;
    esac
done

# Work without kernel support for overlays and without a container runtime, so inside containers too.
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
base=localhost/crossthink-base:bookworm
sources=$(cd "$(dirname "$0")/.." && pwd)

scratch=$(mktemp --directory)
container=''
tidy() {
    if [ -n "$container" ]; then buildah rm "$container" > /dev/null; fi
    rm -rf --one-file-system "$scratch"
}
trap tidy EXIT

if [ -z "$rootfs" ]; then
    rootfs=$scratch/rootfs
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$rootfs"
fi
container=$(buildah from scratch)
buildah copy --quiet "$container" "$rootfs" / > /dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$base" > /dev/null
container=''

revision=$(git -C "$sources" rev-parse HEAD 2> /dev/null || echo unknown)
# Only Docker's format knows HEALTHCHECK.
buildah build --format docker --network host --target cpu --tag "$tag" \
    --build-arg "CPU_BASE=$base" --build-arg "REVISION=$revision" "$@" "$sources"
echo "built $tag"
