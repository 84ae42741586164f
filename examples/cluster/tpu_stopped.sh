#!/usr/bin/env bash
# Runs after memkd.service: where the run has ended, and was not interrupted, its exit code and
# its last lines go to $MEMKD_RUN.ended, for which tpu_spot.sh waits.
set -euo pipefail

case ${EXIT_CODE:-}:${EXIT_STATUS:-} in
  exited:75 | exited:130 | exited:143) exit 0 ;;
  exited:*) ;;
  *) exit 0 ;;  # killed by a signal: systemd starts it again
esac
{
  echo "$EXIT_STATUS"
  journalctl --unit=memkd --lines=50 --no-pager --output=cat
} | gcloud storage cp - "$MEMKD_RUN.ended"
