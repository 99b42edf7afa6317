#!/usr/bin/env bash
# Proof against a real SLURM on this machine (see local_cluster.sh), as root, in under ten minutes:
#   bash scripts/slurm/test.sh [--install]
# 1. A small run is submitted, preempted by a job of higher priority, requeued, told to stop by SIGUSR1 to its batch
#    shell, requeued by its own script, and finishes; its last checkpoint must equal an unbroken run's bit for bit.
# 2. The same with two processes that srun starts, preempted once; its unbroken run is started by many_nodes.sbatch, so
#    that two launchers must agree too.
# 3. A sweep as a job array of two lines; a corpus and its rows made by arrays of two parts each, which must equal what
#    one process makes byte for byte. Every sbatch file is also shown to `sbatch --test-only`.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export SLM_ROOT=$root SLM_PYTHON=${SLM_PYTHON:-$root/.venv/bin/python} OMP_NUM_THREADS=1
export SLM_CLUSTER=${SLM_CLUSTER:-/tmp/slm-cluster-test} PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH}
export SLURM_CONF=$SLM_CLUSTER/slurm.conf
work=$(mktemp -d)
limit=$((SECONDS + ${SLM_TEST_SECONDS:-590}))
broken=$work/broken unbroken=$work/unbroken scripts=$root/scripts/slurm
settings=(recipe=smoke train.threads=1 train.precision=fp32 train.log_every_steps=1 train.save_every_steps=100
  train.evaluate_every_steps=100 train.tokens="${SLM_TEST_TOKENS:-1638400}")

finish() {
  local status=$?
  if [ "$status" -ne 0 ]; then tail -n 25 "$work"/*.log 2>/dev/null || true; fi
  bash "$scripts/local_cluster.sh" stop
  rm -rf "$work"
  [ "$status" -eq 0 ] || echo FAIL
}
trap finish EXIT

submit() { # log, words of sbatch...
  local log=$1
  shift
  sbatch --parsable --exclusive --output="$work/$log" --chdir="$root" "$@"
}
steps() { cat "$broken/$run/train/metrics.jsonl" 2>/dev/null | grep -c "\"kind\": \"train\"" || true; }
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
ended() { ! squeue -h -j "$job" -o %T 2>/dev/null | grep -qvE "COMPLETED|FAILED|CANCELLED|TIMEOUT"; }
finished() { tail -n 1 "$1/train/metrics.jsonl" 2>/dev/null | grep -q '"kind": "finished"'; }

preempt() {
  await "job $job trains" trained_past 30
  sbatch --parsable --partition=high --exclusive --output=/dev/null --wrap "sleep 3" >/dev/null
  await "preempted, requeued and started again" restarted 1
}
tell() { grep -E "^slurm:|received|going on from|finished [0-9]|stopped \(| over 2 processes" "$work/$1" || true; }
compare() { # that the last checkpoints of $run are equal, but for their manifests, which hold times
  local last file name
  last=$(cat "$broken/$run/train/latest")
  [ "$last" = "$(cat "$unbroken/$run/train/latest")" ]
  for file in "$broken/$run/train/$last"/*; do
    name=$(basename "$file")
    [ "$name" = manifest.json ] || cmp "$file" "$unbroken/$run/train/$last/$name"
  done
  finished "$broken/$run" && finished "$unbroken/$run"
  (cd "$broken/$run/train/$last" && sha256sum -- *.safetensors)
}

for file in "$scripts"/*.sbatch "$scripts"/*.sh; do bash -n "$file"; done
bash "$scripts/local_cluster.sh" start "${1:-}"
run=proof
"$SLM_PYTHON" -m slm.pipeline "${settings[@]}" run=$run runs_dir="$broken" to=shards >"$work/prepare.log"
cp -r "$broken" "$unbroken"
shards=(artifacts.shards="$broken/proof/shards" artifacts.tokenizer="$broken/proof/tokenizer")
printf 'seed=%s run=sweep-%s\n' 1 1 2 2 >"$work/settings.txt"
sbatch --test-only --nodes=1 "$scripts/many_nodes.sbatch" recipe=smoke
sbatch --test-only "$scripts/one_node.sbatch" recipe=smoke
sbatch --test-only --array=1-2%1 "$scripts/sweep.sbatch" "$work/settings.txt" recipe=smoke
sbatch --test-only --array=0-1%1 "$scripts/parts.sbatch" recipe=smoke

words=("${settings[@]}" run=$run from=train to=train)
job=$(submit one.log --partition=low "$scripts/one_node.sbatch" "${words[@]}" runs_dir="$broken")
preempt
before=$(steps)
await "training went on past step $before" trained_past $((before + 30))
scancel --batch --signal=USR1 "$job"
await "stopped by SIGUSR1, requeued by its script and started again" restarted 2
await "the job ended" ended
tell one.log
"$SLM_PYTHON" -m slm.pipeline "${words[@]}" runs_dir="$unbroken" >"$work/unbroken.log"
compare
echo "PASS: a run that was preempted, requeued and stopped equals the unbroken run, bit for bit ($SECONDS s)"

run=pair
words=("${settings[@]}" run=$run "${shards[@]}" train.tokens="${SLM_TEST_PAIR_TOKENS:-614400}" train.parallel=ddp)
job=$(submit two.log --partition=low --ntasks=2 "$scripts/one_node.sbatch" "${words[@]}" runs_dir="$broken")
preempt
await "the job ended" ended
tell two.log
job=$(SLM_PROCESSES=2 submit many.log --nodes=1 "$scripts/many_nodes.sbatch" "${words[@]}" runs_dir="$unbroken")
await "the unbroken run of many_nodes.sbatch ended" ended
tell many.log
compare
echo "PASS: two processes of srun, preempted and requeued, equal two of torchrun, unbroken, bit for bit ($SECONDS s)"

words=(recipe=smoke "${shards[@]}" train.tokens=16384 from=train to=train runs_dir="$broken")
job=$(submit sweep-%a.log --array=1-2%1 "$scripts/sweep.sbatch" "$work/settings.txt" "${words[@]}")
await "both tasks of the array ended" ended
finished "$broken/sweep-1" && finished "$broken/sweep-2"
echo "PASS: a job array ran each line of its settings ($SECONDS s)"

text=(run=parts corpus.unit_bytes=100000 'corpus.sources=[{kind: text, path: src/**/*.py, licence: Apache-2.0}]')
job=$(submit parts-%a.log --array=0-1%1 "$scripts/parts.sbatch" "${text[@]}" runs_dir="$broken")
await "both parts of the corpus ended" ended
[ ! -e "$broken/parts/corpus" ]
"$SLM_PYTHON" -m slm.corpus "${text[@]}" runs_dir="$broken" >"$work/merged.log"
"$SLM_PYTHON" -m slm.corpus "${text[@]}" runs_dir="$unbroken" >"$work/whole.log"
for file in "$unbroken"/parts/corpus/*.parquet; do cmp "$file" "$broken/parts/corpus/$(basename "$file")"; done
echo "PASS: a corpus made by a job array equals the one made by one process, byte for byte ($SECONDS s)"

text+=(tokenizer.vocab_size=768 model.vocab_size=768 shards.unit_bytes=100000)
for folder in "$broken" "$unbroken"; do "$SLM_PYTHON" -m slm.tokenizer "${text[@]}" runs_dir="$folder" >"$work/tokenizer.log"; done
job=$(SLM_STAGE=shards submit rows-%a.log --array=0-1%1 "$scripts/parts.sbatch" "${text[@]}" runs_dir="$broken")
await "both parts of the shards ended" ended
[ ! -e "$broken/parts/shards" ]
[ "$(ls "$broken/parts/shards.units" | wc -l)" -gt 1 ]
for folder in "$broken" "$unbroken"; do "$SLM_PYTHON" -m slm.shards "${text[@]}" runs_dir="$folder" >"$work/packed.log"; done
for file in "$unbroken"/parts/shards/*.arrow; do cmp "$file" "$broken/parts/shards/$(basename "$file")"; done
echo "PASS: rows made by a job array equal those made by one process, byte for byte ($SECONDS s)"
