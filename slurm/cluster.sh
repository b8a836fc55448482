#!/usr/bin/env bash
# A private Slurm cluster on this one machine, to try and to test Slurm sweeps: several nodes on loopback addresses,
# pretend GPUs, its own ports, every file under one folder, no system service. Several can run side by side.
#
#   slurm/cluster.sh up             start it, or whatever part of it is down
#   slurm/cluster.sh down           stop it; the folder stays, so that logs can be read
#   slurm/cluster.sh env            print what a shell must export:  eval "$(slurm/cluster.sh env)"
#   slurm/cluster.sh run COMMAND    up, COMMAND with that environment, down
#   slurm/cluster.sh status         nodes and queue
#   slurm/cluster.sh stop|start slurmctld|NODE      the controller or one node (127.0.0.11, .12, ...)
#
# Needs root and, on Debian or Ubuntu:
#   apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
#   and, with ACCOUNTING=1:   slurmdbd mariadb-server-core mariadb-client-core
#
# Settings, from the environment:
#   CLUSTER_DIR (default ${TMPDIR:-/tmp}/dualformer-slurm)   NODES (3)   CPUS per node (2)   MEMORY_MB per node (4000)
#   GPUS per node (2)   PORT, the first of 20 (17600)   ACCOUNTING (0)   EXTRA_CONF, further lines of slurm.conf
set -euo pipefail

dir=${CLUSTER_DIR:-${TMPDIR:-/tmp}/dualformer-slurm}
nodes=${NODES:-3} cpus=${CPUS:-2} memory_mb=${MEMORY_MB:-4000} gpus=${GPUS:-2}
port=${PORT:-17600} accounting=${ACCOUNTING:-0}
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf
munge_socket=$dir/munge/socket
database_socket=$dir/run/database.sock

fail() { echo "cluster.sh: $*" >&2; exit 1; }

need_programs() {
    local program missing=()
    local programs=(munged slurmctld slurmd sbatch)
    [ "$accounting" = 0 ] || programs+=(slurmdbd mariadbd mariadb mariadb-install-db)
    for program in "${programs[@]}"; do
        command -v "$program" > /dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] || fail "not installed: ${missing[*]} (see the head of this file for the packages)"
    [ "$(id -u)" = 0 ] || fail "must be run as root, since slurmd changes users and pretend GPUs are device nodes"
    # Slurm makes a socket for each job step in the folder, and the path of a socket may have 107 characters.
    [ ${#dir} -le 60 ] || fail "CLUSTER_DIR may have 60 characters at most, or no job can start: $dir"
}

# Root writes here, and temporary folders are everybody's: what somebody else made, or can change, is not used.
own_folder() {
    [ ! -L "$dir" ] || fail "$dir is a link, which somebody else may have put there; choose another CLUSTER_DIR"
    mkdir -p -m 755 "$dir"
    [ -O "$dir" ] || fail "$dir belongs to $(stat -c %U "$dir"); choose another CLUSTER_DIR"
    [ -z "$(find "$dir" -maxdepth 0 -perm /022)" ] || fail "others may write to $dir; choose another CLUSTER_DIR"
}

wait_for() { # SECONDS COMMAND...: until the command succeeds
    local tries=$(($1 * 5)); shift
    while ! "$@" > /dev/null 2>&1; do
        ((tries-- > 0)) || return 1
        sleep 0.2
    done
}

is_up() { [ -s "$dir/run/$1.pid" ] && kill -0 "$(cat "$dir/run/$1.pid")" 2> /dev/null; }
is_gone() { ! kill -0 "$1" 2> /dev/null; }

stop_daemon() {
    if is_up "$1"; then
        local pid; pid=$(cat "$dir/run/$1.pid")
        kill "$pid"
        wait_for 10 is_gone "$pid" || kill -9 "$pid" 2> /dev/null || true
    fi
    rm -f "$dir/run/$1.pid"
}

# Nodes are called by their addresses, which need no name service to find each other.
node_names() { seq -f '127.0.0.%g' 11 $((10 + nodes)); }

# Why each of the less usual lines is there:
#   AuthInfo cred_expire  a requeued job waits as long as a credential lives, two minutes unless told otherwise
#   proctrack, task       no cgroups, which a container may not offer
#   OverMemoryKill        memory limits all the same, by looking once a second
#   config_overrides      nodes may claim cores and memory that the machine does not have
#   select, preempt       several jobs share a node; a job in `urgent` puts one in `normal` back into the queue
#   MinJobAge             squeue remembers how a job ended, which matters where there is no accounting
write_configuration() {
    mkdir -p "$dir"/{run,log,state,spool,munge,gpu}
    chmod 755 "$dir" "$dir"/*/
    cat > "$SLURM_CONF" << END
ClusterName=private
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge_socket,cred_expire=5
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerParameters=bf_interval=2,batch_sched_delay=1,sched_interval=2,sched_min_interval=200000
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
KillWait=5
MessageTimeout=20
MinJobAge=300
GresTypes=gpu
$(accounting_lines)
${EXTRA_CONF:-}
$(node_lines)
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=patient Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
END
    write_gpus
}

node_lines() {
    local node number=0
    for node in $(node_names); do
        number=$((number + 1))
        echo "NodeName=$node NodeHostname=$(hostname -s) NodeAddr=$node Port=$((port + number))" \
            "CPUs=$cpus RealMemory=$memory_mb Gres=gpu:$gpus State=UNKNOWN"
    done
}

# slurmd insists on a device node for each GPU, so a pretend one is a copy of /dev/null.
write_gpus() {
    : > "$dir/gres.conf"
    [ "$gpus" -gt 0 ] || return 0
    local number node
    for number in $(seq 0 $((gpus - 1))); do
        [ -c "$dir/gpu/gpu$number" ] || mknod "$dir/gpu/gpu$number" c 1 3
    done
    for node in $(node_names); do
        echo "NodeName=$node Name=gpu File=$dir/gpu/gpu[0-$((gpus - 1))] Flags=nvidia_gpu_env"
    done > "$dir/gres.conf"
}

accounting_lines() {
    if [ "$accounting" = 0 ]; then
        echo "AccountingStorageType=accounting_storage/none"
        return
    fi
    echo "AccountingStorageType=accounting_storage/slurmdbd"
    echo "AccountingStorageHost=127.0.0.1"
    echo "AccountingStoragePort=$((port + 18))"
    echo "AccountingStoragePass=$munge_socket"
}

start_munge() {
    ! is_up munge || return 0
    [ -s "$dir/munge/key" ] || (umask 077; head -c 1024 /dev/urandom > "$dir/munge/key")
    munged --force --socket="$munge_socket" --key-file="$dir/munge/key" --seed-file="$dir/munge/seed" \
        --pid-file="$dir/run/munge.pid" --log-file="$dir/log/munge.log"
}

sql() { mariadb --no-defaults --socket="$database_socket" -e "$1"; }

start_accounting() {
    if ! is_up database; then
        [ -d "$dir/database/mysql" ] || mariadb-install-db --no-defaults --user=root --datadir="$dir/database" \
            --auth-root-authentication-method=socket --skip-test-db > "$dir/log/database.log"
        setsid mariadbd --no-defaults --user=root --datadir="$dir/database" --socket="$database_socket" \
            --pid-file="$dir/run/database.pid" --bind-address=127.0.0.1 --port=$((port + 19)) \
            >> "$dir/log/database.log" 2>&1 < /dev/null &
        wait_for 30 sql 'select 1' || fail "the database did not start: see $dir/log/database.log"
        sql "create database if not exists slurm"
        sql "create user if not exists slurm@'127.0.0.1' identified by 'slurm'"
        sql "grant all on slurm.* to slurm@'127.0.0.1'"
    fi
    cat > "$dir/slurmdbd.conf" << END
AuthType=auth/munge
AuthInfo=socket=$munge_socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 18))
SlurmUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((port + 19))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
END
    chmod 600 "$dir/slurmdbd.conf"
    is_up slurmdbd || slurmdbd
    wait_for 30 sacctmgr -n list cluster || fail "accounting did not start: see $dir/log/slurmdbd.log"
    sacctmgr -n list cluster format=cluster | grep -qw private || sacctmgr -i -Q add cluster private > /dev/null
}

start_controller() { is_up slurmctld || slurmctld; }

start_node() {
    mkdir -p "$dir/spool/$1"
    is_up "$1" || slurmd -N "$1"
}

all_nodes_ready() { [ "$(sinfo -h -N -p normal -t idle,mix,alloc -o %N | sort -u | wc -l)" = "$nodes" ]; }

up() {
    need_programs
    own_folder
    write_configuration
    start_munge
    [ "$accounting" = 0 ] || start_accounting
    start_controller
    wait_for 20 scontrol ping || fail "slurmctld did not start: see $dir/log/slurmctld.log"
    local node
    for node in $(node_names); do start_node "$node"; done
    wait_for 30 all_nodes_ready || fail "not all nodes came up: see $dir/log"
}

down() {
    local daemon
    [ ! -s "$SLURM_CONF" ] || scancel --user="$(id -un)" 2> /dev/null || true
    for daemon in $(node_names) slurmctld slurmdbd database munge; do stop_daemon "$daemon"; done
}

case "${1:-}" in
    up) up; sinfo ;;
    down) down ;;
    env) echo "export SLURM_CONF=$SLURM_CONF" ;;
    run) shift; trap down EXIT; up; "$@" ;;
    status) sinfo -N -l; squeue ;;
    stop) stop_daemon "${2:?which daemon: slurmctld or a node}" ;;
    start) if [ "${2:?which daemon: slurmctld or a node}" = slurmctld ]; then start_controller; else start_node "$2"; fi ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
