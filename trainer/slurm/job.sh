# ---------------------------------------------------------------- the rest is the same in every job
cd "$folder" || exit
if ((${#modules[@]})); then
    type -t module >/dev/null || source /etc/profile
    module load "${modules[@]}" || exit
fi
set -eo pipefail

job=$SLURM_JOB_ID
if [[ $SLURM_ARRAY_TASK_ID ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
restarts=${SLURM_RESTART_COUNT:-0}
read -r main_node < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((10000 + SLURM_JOB_ID % 20000)) # two jobs of one node do not meet
say() { echo "$(date +%FT%T) job $job: $*"; }
if [[ ${words[0]} == launch ]]; then
    words=(launch --nodes "$SLURM_NNODES" --main-address "$main_node:$port" "${words[@]:1}")
fi
say "restart $restarts, $SLURM_NNODES node(s) $SLURM_JOB_NODELIST, which meet at $main_node:$port"

# A collective of NCCL that hangs ends its rank, which first writes down its last collectives.
defaults=(
    TORCH_NCCL_ASYNC_ERROR_HANDLING=3
    TORCH_NCCL_DUMP_ON_TIMEOUT=1
    TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=600
    TORCH_FR_BUFFER_SIZE=2000
    "TORCH_FR_DUMP_TEMP_FILE=$logs/nccl-$job-rank-"
)

# Slurm sends USR1 to this shell before the time limit, and TERM before it ends the job. The nodes
# get USR1: the run saves a checkpoint and ends with code 85.
pass_on() {
    has_signal=yes
    say "a signal; the run saves and ends"
    kill -USR1 "$step" 2>/dev/null || :
}

# srun ends with the highest code of its tasks, which is 137 where nodes that waited for a failed one
# were killed. So each node that fails writes its own code down.
codes=$(mktemp ./.nearfar-job-XXXXXX)
trap 'rm -f "$codes"' EXIT

# --cpu-bind=none: a task is one launcher with all ranks of its node, and would else be bound to a
# single core. --wait: when one node has failed, the others have time to say why and to end.
# USR1 must not end a launcher that cannot handle it yet.
# shellcheck disable=SC2016  # $SLURM_NODEID differs from node to node and is read there
srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0 --wait="$wait_seconds" "${container[@]}" \
    env "${defaults[@]}" "${environment[@]}" bash -c 'codes=$1 python=$2 verb=$3; shift 3
        trap : INT TERM
        trap "" USR1
        if [[ $verb == launch ]]; then set -- --node-rank "$SLURM_NODEID" "$@"; fi
        "$python" -m trainer "$verb" "$@" && exit
        code=$?
        echo "$code" >>"$codes"
        exit "$code"' \
    node "$codes" "$python" "${words[@]}" &
step=$!
trap pass_on USR1 TERM
trap : INT

code=127 has_signal=yes
while [[ $has_signal ]]; do # a signal ends `wait`, but not the step
    has_signal='' status=0
    wait "$step" || status=$?
    if ((status != 127)); then code=$status; fi # 127: its code is known already
done
read -r first_code <"$codes" && code=$first_code

# 85: preempted, and a checkpoint is written. Slurm would also start a job again that its user has
# cancelled; it is no longer RUNNING then.
if ((code == 85)); then
    ask() { squeue --noheader --jobs="$job" --format=%T; }
    state=$(ask || { sleep 20 && ask; } || echo "in an unknown state")
    if [[ $state != RUNNING ]]; then
        say "preempted, but not started again: Slurm says that it is $state"
    elif ((restarts >= max_requeues)); then
        say "preempted, but not started again: this was restart $restarts of at most $max_requeues"
    else
        say "preempted; it is started again and resumes"
        scontrol requeue "$job" || say "Slurm did not start it again; submit it once more to resume"
    fi
fi
say "ends with code $code"
exit "$code"
