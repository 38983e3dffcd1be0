#!/bin/bash
# One run of a sweep on a bare TPU VM, through a queued resource of gcloud:
#
#   PROJECT=NAME ZONE=us-east5-b TPU=v6e-8 launch/tpu_vm.sh NAME 3 \
#     --experiment=sft --config=CONFIG.py --workdir=gs://BUCKET/NAME
#
# 3 is the run. It asks for the machine, waits until it is there, copies what git
# knows of this folder, and starts the run on every host. Where the machine is
# taken away, or the run left with 143, it asks again, and the run goes on from
# its last checkpoint. In the end the machine is given back, also on ctrl-C.
# CREATE_FLAGS are passed on: empty for a machine that is not spot.
set -euo pipefail

name=${1:?NAME must be given} index=${2:?the run must be given: 3} && shift 2
where=(--project="${PROJECT:?must name the project}"
  --zone="${ZONE:?must name the zone}" --quiet)
: "${TPU:?must name the machine: v6e-8}"
poll=${POLL_SECS:-30} is_ours=

state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>/dev/null || echo GONE
}
give_back() {
  [ -z "$is_ours" ] || gcloud compute tpus queued-resources delete "$name" \
    "${where[@]}" --force || return 255
  is_ours=
}
on_all() {
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command="$1" -- -tt
}
# Return what the run left with; 255 if there was no machine to run it.
attempt() {
  give_back || return 255
  # shellcheck disable=SC2086
  gcloud compute tpus queued-resources create "$name" "${where[@]}" \
    --node-id="$name" --accelerator-type="$TPU" \
    --runtime-version="${RUNTIME:-v2-alpha-tpuv6e}" \
    ${CREATE_FLAGS---spot} || exit 2
  is_ours=yes
  until [ "$(state)" = ACTIVE ]; do
    case $(state) in FAILED | SUSPENDED | GONE) return 255 ;; esac
    sleep "$poll"
  done
  gcloud compute tpus tpu-vm scp "$files" "$name:paradiff.tar" "${where[@]}" \
    --worker=all || return $?
  on_all "$prepare" || return $?
  on_all "cd paradiff && exec ../venv/bin/python -m launch.sweep $words" ||
    return $?
}

prepare="set -e
mkdir -p paradiff && tar -xf paradiff.tar -C paradiff
command -v ~/.local/bin/uv || python3 -m pip install --user uv
~/.local/bin/uv venv --allow-existing --python 3.12 venv
~/.local/bin/uv pip install --python venv --editable './paradiff[tpu]' gcsfs"
words=$(printf '%q ' "$@" "--index=$index")
files=$(mktemp)
trap 'rm -f "$files"; give_back' EXIT
git archive --output="$files" --format=tar HEAD

while code=0; attempt || code=$?; [ "$code" != 0 ]; do
  sleep "$poll"
  # A machine that is still there was not taken away: the run has failed. 255 is
  # ssh's own: the connection broke.
  if [ "$code" != 143 ] && [ "$code" != 255 ] && [ "$(state)" = ACTIVE ]; then
    echo "error: run $index left with $code" >&2
    exit "$code"
  fi
  echo "run $index left with $code: asking for a machine again" >&2
done
echo "run $index is done" >&2
