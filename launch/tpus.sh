# shellcheck shell=bash disable=SC2034  # read by the launchers that source this
# TPU slices by name, in one table. The number counts chips, as in `cosyjax compile --topology`;
# Google's own names of v5p count the two cores of a chip.

tpu_table() {
    cat <<'END'
v5e-1     v5litepod-1    v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  1x1      1    1
v5e-4     v5litepod-4    v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  2x2      1    4
v5e-8     v5litepod-8    v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  2x4      1    8
v5e-16    v5litepod-16   v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  4x4      4    4
v5e-32    v5litepod-32   v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  4x8      8    4
v5e-64    v5litepod-64   v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  8x8      16   4
v5e-128   v5litepod-128  v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  8x16     32   4
v5e-256   v5litepod-256  v2-alpha-tpuv5-lite  tpu-v5-lite-podslice  16x16    64   4
v5p-4     v5p-8          v2-alpha-tpuv5       tpu-v5p-slice         2x2x1    1    4
v5p-64    v5p-128        v2-alpha-tpuv5       tpu-v5p-slice         4x4x4    16   4
v5p-128   v5p-256        v2-alpha-tpuv5       tpu-v5p-slice         4x4x8    32   4
v5p-512   v5p-1024       v2-alpha-tpuv5       tpu-v5p-slice         8x8x8    128  4
v5p-2048  v5p-4096       v2-alpha-tpuv5       tpu-v5p-slice         8x16x16  512  4
v5p-4096  v5p-8192       v2-alpha-tpuv5       tpu-v5p-slice         16x16x16 1024 4
v6e-1     v6e-1          v2-alpha-tpuv6e      tpu-v6e-slice         1x1      1    1
v6e-4     v6e-4          v2-alpha-tpuv6e      tpu-v6e-slice         2x2      1    4
v6e-16    v6e-16         v2-alpha-tpuv6e      tpu-v6e-slice         4x4      4    4
v6e-64    v6e-64         v2-alpha-tpuv6e      tpu-v6e-slice         8x8      16   4
v6e-256   v6e-256        v2-alpha-tpuv6e      tpu-v6e-slice         16x16    64   4
END
}

# Sets what Google calls the slice $1 (`accelerator`, of queued resources and xpk; `runtime`; and of
# GKE `node_label` and `topology`), how many `hosts` it has and the `chips` of each.
read_tpu() {
    local name
    while read -r name accelerator runtime node_label topology hosts chips; do
        [ "$name" != "$1" ] || return 0
    done < <(tpu_table)
    refuse "TYPE=$1: there is no such slice in launch/tpus.sh; $(tpu_table | cut -d' ' -f1 | xargs)"
}
