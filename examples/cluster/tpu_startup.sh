#!/usr/bin/env bash
# Startup script of a TPU VM, which runs it as root at every boot: brings code and data from the
# bucket, installs, and trains as a service that starts again where it was interrupted.
# Put your bucket and your flags into the next lines (docs/tpu.md).
set -euo pipefail

bucket=gs://BUCKET                # has memkd_jax.tar.gz and mvtec_ad/
run=$bucket/runs/mvtec
# On a pod slice, which has several hosts: flags='--config=mvtec --coordinator=auto'
flags='--config=mvtec --config.parallel.axis=category'

here=/opt/memkd_jax
data=/opt/datasets
export HOME=/root PATH=$PATH:/snap/bin

mkdir -p "$here" "$data/mvtec_ad"
cd "$here"
gcloud storage cat "$bucket/memkd_jax.tar.gz" | tar -xz
gcloud storage rsync --recursive "$bucket/mvtec_ad" "$data/mvtec_ad"

if [ ! -e .venv/installed ]; then
  # The image brings Python 3.10, which is too old; uv fetches a newer one.
  python3 -m pip install uv
  python3 -m uv venv --clear --seed --python 3.13 .venv
  .venv/bin/pip install -e '.[gcs]' 'jax[tpu]'
  touch .venv/installed
fi

cat > /etc/memkd.env <<ENV
MEMKD_RUN=$run
MEMKD_FLAGS=$flags
MEMKD_DATA=$data
PATH=$PATH
ENV
cp examples/cluster/memkd.service /etc/systemd/system/
systemctl daemon-reload
systemctl start --no-block memkd
