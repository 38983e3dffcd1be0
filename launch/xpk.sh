#!/bin/bash
# A sweep on GKE through xpk, one workload a run, each over one or more slices:
#
#   CLUSTER=NAME IMAGE=IMAGE TPU=v6e-16 SLICES=2 launch/xpk.sh NAME 0-3 \
#     --experiment=sft --config=CONFIG.py --workdir=gs://BUCKET/NAME
#
# 0-3 are the runs of the sweep, 2 is one of them. GPU=h100-mega-80gb-8 in place
# of TPU, with NODES in place of SLICES, asks for machines with GPUs. XPK_FLAGS
# are passed on: --dry-run --skip-validation shows what would be asked for.
#
# A run that is told to stop saves and leaves with 143, and is started again, up
# to MAX_RESTARTS times. So is one that leaves with 1: the other processes of a
# run do so when a machine of it is gone.
set -euo pipefail

name=${1:?NAME must be given} runs=${2:?the runs must be given: 0-3} && shift 2
: "${CLUSTER:?must name the cluster}" "${IMAGE:?must name the container image}"
if [ -n "${GPU:-}" ]; then
  machines=(--device-type="$GPU" --num-nodes="${NODES:-1}")
else
  machines=(--tpu-type="${TPU:?must name the slice}"
    --num-slices="${SLICES:-1}")
fi

for word in "$@"; do
  case $word in *[!A-Za-z0-9_./:=,@%+-]*)
    echo "error: flags must be plain words, which xpk quotes nowhere: $word" >&2
    exit 1
  esac
done

# On GPUs xpk says where the coordinator is; on TPUs jax finds it. No quotes and
# one line: xpk pastes it into YAML as it is.
# shellcheck disable=SC2016
join='test -z $NNODES || export '\
'JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT '\
'JAX_NUM_PROCESSES=$NNODES JAX_PROCESS_ID=$NODE_RANK'

for index in $(seq "${runs%-*}" "${runs#*-}"); do
  # The number is given: Kubernetes's own is that of the worker in its slice.
  # exec, for signals and the exit code are to be the run's own.
  run="exec python -m launch.sweep $* --index=$index"
  # shellcheck disable=SC2086
  xpk workload create --workload="$name-$index" --cluster="$CLUSTER" \
    "${machines[@]}" --docker-image="$IMAGE" --command="$join; $run" \
    --max-restarts="${MAX_RESTARTS:-20}" --restart-on-exit-codes=1,143 \
    --termination-grace-period-seconds="${GRACE_SECS:-300}" \
    ${XPK_FLAGS:-}
done
