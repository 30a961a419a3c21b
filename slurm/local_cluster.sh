#!/usr/bin/env bash
# A SLURM cluster of several nodes on this machine: its own munged, one slurmctld, one slurmd for each node.
#
# Everything lies under one folder, nothing under /etc or /var, and ports are free ones: clusters of different folders
# run side by side and beside a real one. Nodes may claim more than the machine has (SlurmdParameters=config_overrides):
# nothing binds tasks to cores, and a GPU is a link to /dev/null that gres.conf counts.
set -euo pipefail

readonly MARK="# crossthink local cluster"
readonly START_LIMIT_S=120
readonly STOP_LIMIT_S=20
# The sockets of munged and slurmstepd lie in the folder, and a Unix socket's path has at most 107 characters.
readonly LONGEST_DIR=70
# Below the ports that Linux gives to clients (32768 and up), which come and go while the cluster starts.
readonly FIRST_PORT=20000 PORTS=10000

usage() {
  cat <<'HELP'
usage: local_cluster.sh COMMAND [options]

A real SLURM cluster on this machine, for tests and rehearsals of cluster=local.

  start            start it and wait until every node is idle; a folder's earlier jobs are forgotten
  stop             end every process of it, jobs too
  status           what runs; exit 0 if all of it does, else 1
  env              the line to eval in a shell: SLURM_CONF, all that sbatch and srun need
  install          install slurm-wlm and munge with apt-get where they are missing; asks first
  kill-node NODE   as if the machine lost power: slurmd and everything that runs on the node is killed.
                   SLURM notices after about 30 s
  start-node NODE  start its slurmd again

  --dir DIR          the cluster's folder (default: /tmp/crossthink-slurm-UID)
  --nodes N          nodes n1 to nN (start; default 4)
  --gpus N           GPUs of a node; jobs ask with --gres=gpu:N (start; default 0)
  --cpus N           CPUs of a node (start; default 8)
  --nodes-like SPEC  more of slurm.conf's words for every node, such as 'RealMemory=500000 Feature=h100' (start)
  --install          install what is missing without asking (start, install)
  --daemon-only      kill slurmd alone: what runs on the node goes on, unseen by SLURM (kill-node)

Partitions batch (the default), gpu and cpu have all nodes each. A requeued job waits 11 s. SLURM tells one node from
another by SLURMD_NODENAME; the host name is the same.
Exit codes: 0 done, 1 failed, 2 bad usage or SLURM is missing.
HELP
}

fail() {
  echo "local_cluster.sh: $1" >&2
  exit "${2:-1}"
}

whole_number() { # OPTION VALUE LEAST MOST
  if [[ ! $2 =~ ^[0-9]{1,4}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    fail "$1 $2: give a whole number from $3 to $4" 2
  fi
}

# --- processes -------------------------------------------------------------------------------------------------------

# Is it alive and a daemon of this cluster? Its command line names the folder; that of a zombie is empty.
alive() { grep -qzF -- "$DIR/" "/proc/$1/cmdline" 2>/dev/null; } # PID

ended() { ! alive "$1"; } # PID

# The process of a pid file, if it is still the daemon that wrote it.
pid_of() { # PIDFILE
  local pid
  [[ -r $1 ]] && pid=$(<"$1") && [[ $pid =~ ^[0-9]+$ ]] && alive "$pid" && echo "$pid"
}

running() { pid_of "$1" >/dev/null; }

wait_until() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

end_daemon() { # PIDFILE
  local pid
  if pid=$(pid_of "$1"); then
    kill -TERM "$pid" 2>/dev/null || true
    wait_until "$STOP_LIMIT_S" ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
    wait_until "$STOP_LIMIT_S" ended "$pid" || fail "process $pid ($1) does not end"
  fi
  rm -f "$1"
}

# What runs on a node beside slurmd, one process id a line: each slurmstepd (its working folder is that of slurmd's log),
# what has the node's name in its environment, and all that descends from these or is of their sessions.
# SLURM_CONF alone would not do: the user's own shell has it.
on_node() { # NODE
  local -A roots=()
  local file pid
  while read -r file; do
    roots[${file//[!0-9]/}]=1
  done < <(
    { find /proc -mindepth 2 -maxdepth 2 -name cwd -lname "$DIR/$1" -printf '%h/cmdline\n' || true; } 2>/dev/null |
      { xargs -r grep -lz '^slurmstepd: ' || true; } 2>/dev/null
    { grep -lzx "SLURM_CONF=$DIR/slurm.conf" /proc/[0-9]*/environ || true; } 2>/dev/null |
      { xargs -r grep -lzx "SLURMD_NODENAME=$1" || true; } 2>/dev/null
  )
  pid=$(pid_of "$DIR/$1/slurmd.pid") || pid=0
  ps -e -o pid=,ppid=,sid=,stat= | awk -v roots="${!roots[*]}" -v self=$$ -v slurmd="$pid" '
    BEGIN { split(roots, list); for (i in list) { mine[list[i]] = 1 } }
    $4 !~ /^Z/ && $1 != slurmd { parent[$1] = $2; session[$1] = $3 }
    END {
      for (p in mine) if (p in session) sessions[session[p]] = 1
      do {
        grown = 0
        for (p in parent) if (!(p in mine) && ((parent[p] in mine) || (session[p] in sessions))) { mine[p] = 1; grown = 1 }
      } while (grown)
      for (p in mine) if (p in parent && p != self) print p
    }'
}

kill_on_node() { # NODE
  local pids
  pids=$(on_node "$1")
  [[ -z $pids ]] && return 0
  # shellcheck disable=SC2086  # one word for each process
  kill -KILL $pids 2>/dev/null || true
  return 1
}

clear_node() { # NODE
  wait_until "$STOP_LIMIT_S" kill_on_node "$1" || fail "processes of $1 do not end: $(on_node "$1" | xargs)"
}

# --- the folder ------------------------------------------------------------------------------------------------------

is_cluster() { [[ -r $DIR/slurm.conf ]] && grep -qxF "$MARK" "$DIR/slurm.conf"; }

need_cluster() { is_cluster || fail "there is no cluster in $DIR: give the --dir of \`start\`"; }

# Names of the nodes, from slurm.conf's `NodeName=n[1-N]`.
node_names() { seq -f 'n%g' "$(sed -n 's/^NodeName=n\[1-\([0-9]*\)\].*/\1/p' "$DIR/slurm.conf")"; }

need_node() { # NODE
  need_cluster
  node_names | grep -qxF -- "$1" || fail "node '$1' is not of this cluster; it has $(node_names | xargs)" 2
}

port_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The first of N + 1 free ports in a row: slurmctld's and those of the nodes.
free_ports() { # N
  local first port
  for _ in {1..50}; do
    first=$((FIRST_PORT + RANDOM % (PORTS - $1)))
    for ((port = first; port <= first + $1; port++)); do
      port_free "$port" || continue 2
    done
    echo "$first" && return
  done
  fail "found no $(($1 + 1)) free ports in a row from $FIRST_PORT"
}

write_config() { # FIRST_PORT
  local user words="CPUs=$CPUS State=UNKNOWN"
  user=$(id -un)
  [[ $NODES_LIKE == *RealMemory=* ]] || words+=" RealMemory=1000000"
  ((GPUS == 0)) || words+=" Gres=gpu:$GPUS"
  cat >"$DIR/slurm.conf" <<CONF
$MARK
# The daemons listen on every address and answer nobody without the munge key. CommunicationParameters=NoInAddrAny would
# keep them to 127.0.0.1, and srun to the address of the host's name, where the tasks, told 127.0.0.1, do not find it.
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$1
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A requeued job waits as long as a credential is valid, and a second.
AuthInfo=socket=$DIR/munge/socket,cred_expire=10
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmctldLogFile=$DIR/slurmctld.log
StateSaveLocation=$DIR/state
SlurmdPidFile=$DIR/%n/slurmd.pid
SlurmdLogFile=$DIR/%n/slurmd.log
SlurmdSpoolDir=$DIR/%n/spool
SlurmdParameters=config_overrides
# Nothing here needs the kernel's control groups, which want root and systemd.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Heterogeneous jobs are started by the backfill scheduler alone, which otherwise looks every 30 s.
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2
# As on clusters that leave it to the job: without --requeue none is requeued.
JobRequeue=0
# A node that is lost is noticed after about 30 s, not 5 minutes, and is taken back when its slurmd returns.
SlurmdTimeout=15
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$(($1 + 1))-$(($1 + NODES))] $words $NODES_LIKE
PartitionName=batch Nodes=ALL Default=YES
PartitionName=gpu Nodes=ALL
PartitionName=cpu Nodes=ALL
CONF
  : >"$DIR/gres.conf"
  if ((GPUS > 0)); then
    # slurmd refuses a node whose GPUs are counted but have no file, and sets CUDA_VISIBLE_DEVICES for devices alone.
    local gpu
    for ((gpu = 0; gpu < GPUS; gpu++)); do ln -s /dev/null "$DIR/gpus/gpu$gpu"; done
    echo "NodeName=n[1-$NODES] Name=gpu File=$DIR/gpus/gpu[0-$((GPUS - 1))]" >"$DIR/gres.conf"
  fi
}

make_folder() {
  local node
  [[ $DIR =~ ^[A-Za-z0-9._/-]+$ ]] || fail "--dir $DIR: slurm.conf takes letters, digits and . _ - / in a path" 2
  ((${#DIR} <= LONGEST_DIR)) || fail "--dir $DIR: longer than $LONGEST_DIR characters, too long for sockets in it" 2
  mkdir -p "$DIR"
  [[ -O $DIR ]] || fail "--dir $DIR: belongs to another user" 2
  is_cluster || [[ -z $(ls -A "$DIR") ]] || fail "--dir $DIR: neither empty nor a cluster's folder" 2
  rm -rf "$DIR"/{state,gpus,munge,slurm.conf} "$DIR"/n[0-9]*
  mkdir -p "$DIR"/{state,gpus,munge}
  for ((node = 1; node <= NODES; node++)); do mkdir -p "$DIR/n$node/spool"; done
  (umask 077 && head -c 128 /dev/urandom >"$DIR/munge/key")
}

# --- commands --------------------------------------------------------------------------------------------------------

install_slurm() {
  local missing=() answer program
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]})) || return 0
  echo "missing: ${missing[*]}" >&2
  command -v apt-get >/dev/null || fail "install SLURM and munge with this system's package manager" 2
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get) packages=(slurm-wlm munge)
  ((EUID == 0)) || apt=(sudo "${apt[@]}")
  if ((!INSTALL)); then
    [[ -t 0 ]] || fail "install them with \`apt-get install ${packages[*]}\`, or give --install" 2
    # read leaves an empty answer where the terminal ends.
    read -r -p "run \`apt-get install ${packages[*]}\`? [y/N] " answer || true
    [[ $answer == [yY]* ]] || fail "not installed" 2
  fi
  # A fresh machine or image has no list of packages.
  "${apt[@]}" update >&2 || fail "apt-get update failed"
  "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >&2 || fail "apt-get install ${packages[*]} failed"
}

start_slurmd() { # NODE
  slurmd -f "$DIR/slurm.conf" -N "$1" 9>&-
}

nodes_idle() {
  local idle
  idle=$(sinfo --noheader --Node --partition=batch --format=%T 2>/dev/null | grep -cx idle) || return 1
  ((idle == NODES))
}

node_back() { # NODE
  [[ $(sinfo --noheader --Node --partition=batch --nodes="$1" --format=%T 2>/dev/null) =~ ^(idle|mixed|allocated)$ ]]
}

show_logs() {
  local log
  for log in "$DIR"/munge/log "$DIR"/slurmctld.log "$DIR"/n*/slurmd.log; do
    [[ ! -s $log ]] || { echo "--- $log" && tail -n 8 "$log"; } >&2
  done
}

given_up() { # while starting
  show_logs
  stop >&2
  fail "the cluster did not start (limit: $START_LIMIT_S s); its logs' ends are above, and whole in $DIR"
}

start() {
  local first node
  install_slurm
  # Held until all daemons listen: two clusters that start at once must not find the same ports free.
  exec 9</tmp
  flock --wait "$START_LIMIT_S" 9 || fail "another cluster has been starting for $START_LIMIT_S s (lock on /tmp)"
  if is_cluster && running "$DIR/slurmctld.pid"; then
    echo "runs already in $DIR with $(node_names | wc -l) nodes; stop it first to change it"
    return
  fi
  ! is_cluster || stop >/dev/null
  make_folder
  first=$(free_ports "$NODES")
  write_config "$first"
  # --force: warnings, not errors, of folders that others may write to, as a home folder may be; the key is for one
  # user's own daemons.
  munged --force --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/munge/pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed" 9>&- || given_up
  slurmctld -f "$DIR/slurm.conf" 9>&- || given_up
  for node in $(node_names); do start_slurmd "$node" || given_up; done
  wait_until "$START_LIMIT_S" nodes_idle || given_up
  flock -u 9
  echo "cluster of $NODES nodes in $DIR; eval \"\$($0 env --dir $DIR)\""
}

stop() {
  local node file pid
  is_cluster || { echo "no cluster in $DIR" && return; }
  # All at once, then one after another: each takes a moment. munged is last, for the others ask it.
  for file in "$DIR"/slurmctld.pid "$DIR"/n*/slurmd.pid; do
    ! pid=$(pid_of "$file") || kill -TERM "$pid" 2>/dev/null || true
  done
  end_daemon "$DIR/slurmctld.pid"
  for node in $(node_names); do
    end_daemon "$DIR/$node/slurmd.pid"
    clear_node "$node"
  done
  end_daemon "$DIR/munge/pid"
  echo "nothing runs of the cluster in $DIR"
}

status() {
  local name file all=0
  need_cluster
  for name in munged slurmctld $(node_names); do
    case $name in
      munged) file=munge/pid ;;
      slurmctld) file=slurmctld.pid ;;
      *) file=$name/slurmd.pid ;;
    esac
    if running "$DIR/$file"; then
      echo "$name runs, process $(pid_of "$DIR/$file")"
    else
      echo "$name does not run" && all=1
    fi
  done
  ! running "$DIR/slurmctld.pid" || sinfo
  return "$all"
}

kill_node() { # NODE
  local pid
  need_node "$1"
  pid=$(pid_of "$DIR/$1/slurmd.pid") || fail "$1 does not run"
  kill -KILL "$pid"
  wait_until "$STOP_LIMIT_S" ended "$pid" || fail "process $pid does not end"
  rm -f "$DIR/$1/slurmd.pid"
  ((DAEMON_ONLY)) || clear_node "$1"
}

start_node() { # NODE
  need_node "$1"
  running "$DIR/slurmctld.pid" || fail "the cluster in $DIR does not run"
  running "$DIR/$1/slurmd.pid" || start_slurmd "$1"
  wait_until "$START_LIMIT_S" node_back "$1" || { show_logs && fail "$1 did not come back within $START_LIMIT_S s"; }
}

main() {
  local command=${1:-} node=
  [[ -n $command ]] || { usage >&2 && exit 2; }
  shift
  DIR=/tmp/crossthink-slurm-$(id -u) NODES=4 GPUS=0 CPUS=8 NODES_LIKE="" INSTALL=0 DAEMON_ONLY=0
  if [[ $command == kill-node || $command == start-node ]] && [[ -n ${1:-} && $1 != -* ]]; then
    node=$1 && shift
  fi
  while (($#)); do
    case $1 in
      --install) INSTALL=1 && shift && continue ;;
      --daemon-only) DAEMON_ONLY=1 && shift && continue ;;
      -h | --help) usage && exit ;;
    esac
    [[ $1 == --* && -n ${2:-} ]] || fail "unknown or without its value: '$1' (see --help)" 2
    case $1 in
      --dir) DIR=$(realpath -m -- "$2") ;;
      --nodes) whole_number "$1" "$2" 1 64 && NODES=$((10#$2)) ;;
      --gpus) whole_number "$1" "$2" 0 16 && GPUS=$((10#$2)) ;;
      --cpus) whole_number "$1" "$2" 1 1024 && CPUS=$((10#$2)) ;;
      --nodes-like) NODES_LIKE=$2 ;;
      *) fail "unknown option '$1' (see --help)" 2 ;;
    esac
    shift 2
  done
  # Debian's daemons; a user's PATH may lack the folder.
  PATH=$PATH:/usr/sbin:/sbin
  export SLURM_CONF=$DIR/slurm.conf
  case $command in
    start | stop | status) "$command" ;;
    install) install_slurm ;;
    env) need_cluster && echo "export SLURM_CONF=$DIR/slurm.conf" ;;
    kill-node | start-node)
      [[ -n $node ]] || fail "$command which node?" 2
      "${command/-/_}" "$node"
      ;;
    -h | --help | help) usage ;;
    *) fail "unknown command '$command' (see --help)" 2 ;;
  esac
}

main "$@"
