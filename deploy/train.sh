#!/bin/bash
# What a cluster job runs on its head node: features, pretrain and finetune on the Ray cluster that is there already.
# The download stage and the evaluation need no cluster: `dvc repro download` before, on any machine; afterwards
# `dvc commit -f features pretrain finetune` and `dvc repro`.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
mkdir -p .scratch
settings=$(cat params.yaml configs/*/*.yaml | sha256sum)
for stage in features pretrain finetune; do
  # A job that was requeued does not make again what it has made with these settings; a killed stage continues.
  made=.scratch/cluster-$stage
  case $stage in features) result=index.json ;; *) result=config.json ;; esac
  if [ ! -e "data/$stage/$result" ] || [ "$(cat "$made" 2>/dev/null)" != "$settings" ]; then
    python -m "stages.$stage"
    echo "$settings" > "$made"
  fi
done
