#!/bin/bash
# What a cluster job runs on its head node: features, pretrain and finetune on the Ray cluster that is there already.
# The download stage and the evaluation need no cluster: `dvc repro download` before, on any machine; afterwards
# `dvc commit -f features pretrain finetune` and `dvc repro`.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
mkdir -p .scratch
# Settings, clips and code. A folder's listing is sorted, so that it is the same on every node.
given=$({ cat params.yaml configs/*/*.yaml data/download/source.json &&
  find audiolib stages -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum)
for stage in features pretrain finetune; do
  # A job that was requeued does not make again what it has made of these; a killed stage continues.
  made=.scratch/cluster-$stage
  case $stage in features) result=index.json ;; *) result=config.json ;; esac
  if [ ! -e "data/$stage/$result" ] || [ "$(cat "$made" 2>/dev/null)" != "$given" ]; then
    python -m "stages.$stage"
    echo "$given" > "$made"
  fi
done
