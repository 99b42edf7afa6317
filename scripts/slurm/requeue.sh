# shellcheck shell=bash
# Sourced by the sbatch files, not run. `requeueing COMMAND...` runs COMMAND, passes signals on to it and waits; when it
# leaves with status 85 (stopped, not finished) the job goes back into the queue, at most SLM_MAX_RESTARTS times.
# SLM_ROOT is the checkout (default: where sbatch was called), SLM_PYTHON the interpreter (default: its .venv).
root=${SLM_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
python=${SLM_PYTHON:-$root/.venv/bin/python}
cd "$root" || exit 1
if [ ! -x "$python" ]; then
  echo "error: there is no interpreter at $python; run scripts/setup.sh's environment first, or name one: SLM_PYTHON=..." >&2
  exit 1
fi

# When the job ends, in seconds since 1970, for older SLURM that does not say so itself.
job_end_time() {
  local end
  end=$(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | grep -o ' EndTime=[^ ]*' | head -n 1)
  date -d "${end#* EndTime=}" +%s 2>/dev/null
}

requeueing() {
  local child status again signalled=""
  if [ -z "${SLURM_JOB_END_TIME:-}" ] && SLURM_JOB_END_TIME=$(job_end_time); then export SLURM_JOB_END_TIME; fi
  [ -n "${SLURM_JOB_END_TIME:-}" ] || unset SLURM_JOB_END_TIME
  "$@" &
  child=$!
  trap 'signalled=1; kill -USR1 "$child" 2>/dev/null' USR1
  trap 'signalled=1; kill -TERM "$child" 2>/dev/null' TERM
  wait "$child"
  status=$?
  while [ -n "$signalled" ]; do # a trap ends `wait` early; the child still has to save
    signalled=""
    wait "$child"
    again=$?
    [ "$again" -eq 127 ] || status=$again
  done
  trap '' USR1 TERM
  if [ "$status" -eq 85 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${SLM_MAX_RESTARTS:-100}" ]; then
      echo "slurm: stopped, but restarted ${SLURM_RESTART_COUNT:-0} times already; not again (SLM_MAX_RESTARTS)" >&2
      exit "$status"
    fi
    echo "slurm: stopped with status 85; back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
    scontrol requeue "$SLURM_JOB_ID" 2>/dev/null || echo "slurm: already requeued by the scheduler"
  fi
  exit "$status"
}
