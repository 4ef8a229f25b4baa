#!/bin/sh
# deploy_local.sh GROUP FOLDER NAME URL…: what hook.py runs where vLLM runs on this machine, one server for each address.
# It ends the server that it started for an address before, by the number in PORT.pid beside FOLDER, and no other process.
# SERVE is what is run with FOLDER, --served-model-name NAME and --port PORT; without it, `vllm serve`.
set -eu
folder=$2 name=$3
shift 3
for url in "$@"; do
  port=${url##*:} && port=${port%%/*}
  pid_file=$(dirname "$folder")/$port.pid
  pid=$(cat "$pid_file" 2>/dev/null || true)
  # a number may be another process's by now: only one that leads a group of its own and names the port is ours
  if [ -n "$pid" ] && ps -ww -o pgid= -o args= -p "$pid" | grep -Eq "^ *$pid .*--port $port( |\$)"; then
    kill -TERM "-$pid"
    for _ in $(seq 60); do kill -0 "-$pid" 2>/dev/null || break; sleep 1; done
    kill -KILL "-$pid" 2>/dev/null || true
  fi
  # shellcheck disable=SC2086 # a command with arguments
  setsid ${SERVE:-vllm serve} "$folder" --served-model-name "$name" --port "$port" > "$folder.$port.log" 2>&1 &
  echo $! > "$pid_file"
done
