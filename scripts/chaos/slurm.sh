#!/usr/bin/env bash
# A whole Slurm on this machine, without systemd: munged, slurmctld and slurmd on 127.0.0.1.
#
#   scripts/chaos/slurm.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/chaos/slurm.sh status FOLDER
#   scripts/chaos/slurm.sh stop FOLDER
#
# Needs Debian's packages: apt-get install slurmctld slurmd slurm-client munge. Runs as root or as any
# user, whose jobs alone it then takes. FOLDER gets the configuration, logs and state, and must have a
# short path (sockets). One node with two pretended GPUs; partitions `low` (default; its jobs are
# requeued at once) and `cancel` (they are cancelled after 20 s of grace), which make way for jobs of
# `high`. A requeued job starts after 11 seconds, not 121.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"

usage() { sed -n '2,6p' "$0" | cut -c 3- >&2; exit 2; }
[ $# -eq 2 ] || usage
mkdir -p "$2"
folder="$(cd "$2" && pwd -P)"
export SLURM_CONF="$folder/slurm.conf"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

write_configuration() {
  local user host
  user="$(id -un)" host="$(hostname -s)"
  cat >"$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=1000000 Gres=gpu:2
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancel Nodes=$host PriorityTier=1 PreemptMode=CANCEL GraceTime=20
PartitionName=high Nodes=$host PriorityTier=9 PreemptMode=OFF
END
  echo "Name=gpu File=/dev/null,/dev/zero" >"$folder/gres.conf"
}

start() {
  command -v slurmctld slurmd munged >/dev/null || { echo "slurm.sh: slurmctld, slurmd or munged is not installed" >&2; exit 3; }
  chmod go-w "$folder"
  mkdir -p "$folder/state" "$folder/spool"
  [ -e "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  write_configuration
  munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
    --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" --seed-file "$folder/munge.seed"
  slurmctld -c
  slurmd
  for _ in $(seq 50); do
    sinfo -h -o %t 2>/dev/null | grep -q '^idle$' && exec sinfo
    sleep 0.2
  done
  echo "slurm.sh: no idle node after 10 s; see $folder/slurmctld.log and slurmd.log" >&2
  exit 1
}

stop() {
  scancel --me 2>/dev/null || true
  for daemon in slurmd slurmctld munged; do
    [ -s "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
  done
}

case "$1" in
start) start ;;
status) sinfo && squeue ;;
stop) stop ;;
*) usage ;;
esac
