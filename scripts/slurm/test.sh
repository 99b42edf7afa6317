#!/usr/bin/env bash
# Proof against a real SLURM on this machine (see local_cluster.sh), as root, in under five minutes:
#   bash scripts/slurm/test.sh [--install]
# A small run is submitted, preempted by a job of higher priority, requeued, told to stop by SIGUSR1 to its batch shell,
# requeued by its own script, and finishes; its last checkpoint must equal an unbroken run's bit for bit.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export SLM_ROOT=$root SLM_PYTHON=${SLM_PYTHON:-$root/.venv/bin/python} OMP_NUM_THREADS=1
export SLM_CLUSTER=${SLM_CLUSTER:-/tmp/slm-cluster-test} PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
export SLURM_CONF=$SLM_CLUSTER/slurm.conf
work=$(mktemp -d)
limit=$((SECONDS + ${SLM_TEST_SECONDS:-290}))
broken=$work/broken unbroken=$work/unbroken
settings=(recipe=smoke run=proof train.threads=1 train.precision=fp32 train.tokens="${SLM_TEST_TOKENS:-1638400}"
  train.log_every_steps=1 train.save_every_steps=100 train.evaluate_every_steps=100)

finish() {
  local status=$?
  if [ "$status" -ne 0 ]; then tail -n 25 "$work"/job.log 2>/dev/null || true; fi
  bash "$root/scripts/slurm/local_cluster.sh" stop
  rm -rf "$work"
  [ "$status" -eq 0 ] || echo FAIL
}
trap finish EXIT

steps() { cat "$broken/proof/train/metrics.jsonl" 2>/dev/null | grep -c "\"kind\": \"train\"" || true; }
state() { squeue -h -j "$job" -o %T 2>/dev/null || true; }
restarts() { scontrol show job -o "$job" | grep -o ' Restarts=[0-9]*' | cut -d= -f2; }
await() { # what COMMAND...: until COMMAND holds
  local what=$1
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$limit" ]; then
      echo "error: waited in vain for $what" >&2
      exit 1
    fi
    sleep 0.3
  done
  echo "test: $what ($SECONDS s)"
}
trained_past() { [ "$(steps)" -gt "$1" ]; }
restarted() { [ "$(restarts)" -ge "$1" ] && [ "$(state)" = "RUNNING" ]; }
ended() { case "$(state)" in "" | COMPLETED | FAILED | CANCELLED | TIMEOUT) true ;; *) false ;; esac }

bash "$root/scripts/slurm/local_cluster.sh" start "${1:-}"
"$SLM_PYTHON" -m slm.pipeline "${settings[@]}" runs_dir="$broken" to=shards >"$work/prepare.log"
cp -r "$broken" "$unbroken"

job=$(sbatch --parsable --partition=low --exclusive --output="$work/job.log" --chdir="$root" \
  "$root/scripts/slurm/one_node.sbatch" "${settings[@]}" runs_dir="$broken" from=train to=train)
await "job $job trains" trained_past 30
sbatch --parsable --partition=high --exclusive --output=/dev/null --wrap "sleep 3" >/dev/null
await "preempted, requeued and started again" restarted 1
before=$(steps)
await "training went on past step $before" trained_past $((before + 30))
scancel --batch --signal=USR1 "$job"
await "stopped by SIGUSR1, requeued by its script and started again" restarted 2
await "the job ended" ended
grep -E "^slurm:|received|going on from|finished [0-9]|stopped \(" "$work/job.log"

"$SLM_PYTHON" -m slm.pipeline "${settings[@]}" runs_dir="$unbroken" from=train to=train >"$work/unbroken.log"
echo "test: the unbroken run is done ($SECONDS s)"
cd "$broken/proof/train"
last=$(cat latest)
[ "$last" = "$(cat "$unbroken/proof/train/latest")" ]
for file in "$last"/*; do
  name=$(basename "$file")
  [ "$name" = manifest.json ] || cmp "$file" "$unbroken/proof/train/$last/$name"
done
grep -q '"kind": "finished"' metrics.jsonl
(cd "$last" && sha256sum model-*.safetensors optimizer.safetensors)
echo "PASS: $last of a run that was preempted, requeued and stopped equals the unbroken run's, bit for bit"
