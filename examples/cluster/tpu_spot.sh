#!/usr/bin/env bash
# Keeps a spot TPU for a run: asks for one, asks again whenever it was taken away, and deletes it
# when the run has ended. Runs on any machine that has gcloud and stays on, without a TPU:
#
#   tpu_spot.sh NAME ZONE gs://BUCKET/runs/mvtec STARTUP_SCRIPT
#
# The environment may set ACCELERATOR and RUNTIME. The exit code is that of the run.
set -euo pipefail

name=$1 zone=$2 run=$3 script=$4
pause=${PAUSE:-60}

state() {
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
    --format='value(state.state)' 2>/dev/null || true
}

delete() {
  gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet || true
}

gcloud storage rm "$run.ended" 2>/dev/null || true
until ended=$(gcloud storage cat "$run.ended" 2>/dev/null); do
  case $(state) in
    '')
      echo "$(date +%T) asks for $name"
      gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
        --accelerator-type="${ACCELERATOR:-v5litepod-8}" \
        --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" --spot \
        --metadata-from-file="startup-script=$script" || true
      ;;
    SUSPENDED | FAILED)
      echo "$(date +%T) $name was taken away"
      delete
      continue
      ;;
  esac
  sleep "$pause"
done
delete
echo "$ended"
exit "${ended%%$'\n'*}"
