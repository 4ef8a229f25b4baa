#!/bin/sh
# Runs a program and kills it when it hangs, so that the container ends and is started again.
#   keep.sh START_S PROBE PROGRAM ARGUMENTS…
# TERM and INT stop the program; HUP is passed on.
# PROBE is a command that succeeds if the program answers; it must end by itself within 5 s. The program is killed after
# 5 s without an answer once it has answered, or after START_S seconds without a first answer. A PROBE that cannot be
# run (status 126 or 127) kills nothing. Compose itself does not restart unhealthy containers.
start_s=$1 probe=$2
shift 2
silent_s=5

"$@" &
child=$!

watch() {
    answered='' last=$(date +%s)
    while sleep 1; do
        sh -c "$probe" >/dev/null 2>&1
        case $? in
            0) answered=1 last=$(date +%s); continue ;;
            126 | 127) last=$(date +%s); continue ;;
        esac
        silent=$(($(date +%s) - last))
        limit=$start_s
        [ -z "$answered" ] || limit=$silent_s
        if [ "$silent" -ge "$limit" ]; then
            echo "keep: $1 has not answered for $silent s (limit $limit s) and is killed" >&2
            kill -KILL "$child"
            return
        fi
    done
}

watch "$1" &
watcher=$!
trap 'kill "$watcher" 2>/dev/null; kill -TERM "$child" 2>/dev/null' TERM INT
trap 'kill -HUP "$child" 2>/dev/null' HUP # a server reads its configuration again
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do # a signal has interrupted the wait
    wait "$child"
    code=$?
done
kill "$watcher" 2>/dev/null
exit "$code"
