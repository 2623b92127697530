#!/bin/bash
# What a cluster job runs on its head node: features, pretrain and finetune on the Ray cluster that is there already.
# The download stage and the evaluation need no cluster: run them before and after, with `dvc repro` on any machine.
set -euo pipefail
cd "$(dirname "$0")/.."
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
for stage in features pretrain finetune; do
  # A stage that has left its result is not made again; a stage that was killed continues where it stopped.
  case $stage in features) result=index.json ;; *) result=config.json ;; esac
  if [ ! -e "data/$stage/$result" ]; then
    python -m "stages.$stage"
  fi
done
