#!/usr/bin/env bash
# A real SLURM on this machine, for tests: local_cluster.sh start [--install] | stop
# Debian's slurm-wlm and munge, run by root, on loopback and ports of its own, everything in SLM_CLUSTER
# (/tmp/slm-cluster), which `stop` removes. Then: export SLURM_CONF=/tmp/slm-cluster/slurm.conf
# Partition low is preempted by partition high; what was preempted or requeued starts again after seconds, not minutes.
set -euo pipefail
state=${SLM_CLUSTER:-/tmp/slm-cluster}
port=${SLM_CLUSTER_PORT:-27817}
export PATH="$PATH:/usr/sbin:/sbin"

start() {
  if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
    if [ "${1:-}" = --install ] && [ "$(id -u)" = 0 ]; then
      apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
    else
      echo "error: slurmctld, slurmd, munged or sbatch is missing; as root: apt-get install slurm-wlm munge (or --install)" >&2
      exit 1
    fi
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "error: a local cluster is started by root, found $(id -un); use sudo" >&2
    exit 1
  fi
  if [ -e "$state" ]; then
    echo "error: $state exists, so a cluster runs or was left; $0 stop removes it" >&2
    exit 1
  fi
  local host cpus
  host=$(hostname -s)
  cpus=$(env -u OMP_NUM_THREADS nproc) # which nproc would obey
  mkdir -p "$state"/{ctld,slurmd,munge}
  chmod 755 "$state" "$state/munge"
  (umask 077 && head -c 1024 /dev/urandom >"$state/munge/key")
  munged --force --num-threads 2 --key-file "$state/munge/key" --socket "$state/munge/socket" \
    --pid-file "$state/munge/pid" --log-file "$state/munge/log" --seed-file "$state/munge/seed" 2>"$state/munge/said"
  cat >"$state/slurm.conf" <<CONF
ClusterName=slm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/slurmd
SlurmctldPidFile=$state/ctld/pid
SlurmdPidFile=$state/slurmd/pid
SlurmctldLogFile=$state/ctld/log
SlurmdLogFile=$state/slurmd/log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
JobRequeue=1
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 MaxTime=UNLIMITED DefaultTime=60
PartitionName=high Nodes=$host PriorityTier=10 MaxTime=UNLIMITED DefaultTime=60 PreemptMode=OFF
CONF
  export SLURM_CONF="$state/slurm.conf"
  slurmctld -i
  slurmd
  for _ in $(seq 60); do
    if [ "$(sinfo -h -p low -o %t 2>/dev/null)" = idle ]; then
      echo "cluster: $host with $cpus cores is idle; export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "error: the node did not become idle in 30 s; see $state/ctld/log and $state/slurmd/log" >&2
  exit 1
}

stop() {
  [ -e "$state" ] || return 0
  if [ -e "$state/slurm.conf" ]; then
    SLURM_CONF="$state/slurm.conf" timeout 20 scancel --full --signal=KILL --user=root 2>/dev/null || true
    SLURM_CONF="$state/slurm.conf" timeout 20 scancel --user=root 2>/dev/null || true
    sleep 1
  fi
  for file in "$state/slurmd/pid" "$state/ctld/pid" "$state/munge/pid"; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -rf "$state"
  echo "cluster: stopped, and $state removed"
}

case "${1:-}" in
  start) start "${2:-}" ;;
  stop) stop ;;
  *)
    echo "usage: $0 start [--install] | stop" >&2
    exit 2
    ;;
esac
