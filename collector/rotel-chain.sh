#!/usr/bin/env bash
# The chain with a collector, without containers:
#
#   isotherm A ── OTLP ──> rotel ── OTLP ──> isotherm B (the heatmap)
#
# Publishes events through A to a listener, stops A, and checks that B received every span that A
# exported. Exits 0 if the counts agree, 1 if not.
#
#   ISOTHERM   the binary         (default: isotherm on PATH, else .build/debug/isotherm)
#   ROTEL      the collector      (default: rotel on PATH, else in .build-tools/venv)
#   EVENTS     events to publish  (default: 200)
#   A_PORT, B_PORT, ROTEL_PORT, ROTEL_GRPC_PORT      (default: 18080 18081 14318 14317)
#   KEEP=1     leave B and rotel running until Ctrl-C, to look at the heatmap
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
a_port=${A_PORT:-18080}
b_port=${B_PORT:-18081}
rotel_port=${ROTEL_PORT:-14318}
rotel_grpc_port=${ROTEL_GRPC_PORT:-14317}
events=${EVENTS:-200}
a=http://127.0.0.1:$a_port
b=http://127.0.0.1:$b_port

say() { printf 'rotel-chain: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

[[ $events =~ ^[1-9][0-9]*$ ]] || die "EVENTS=$events is not a number above zero"
command -v curl >/dev/null || die "curl is needed"

isotherm=${ISOTHERM:-$(command -v isotherm || true)}
isotherm=${isotherm:-$root/.build/debug/isotherm}
[[ -x $isotherm ]] || die "no binary at $isotherm: build one with 'swift build --product isotherm', or set ISOTHERM"

find_rotel() {
    local candidate
    if [[ -n ${ROTEL:-} ]]; then
        printf '%s' "$ROTEL"
        return
    fi
    # The package on PyPI puts no command on PATH: its agent lies inside the Python package.
    for candidate in "$(command -v rotel || true)" "$root"/.build-tools/venv/bin/rotel \
        "$root"/.build-tools/venv/lib/python3*/site-packages/rotel/rotel-agent; do
        if [[ -n $candidate && -x $candidate ]]; then
            printf '%s' "$candidate"
            return
        fi
    done
}
rotel=$(find_rotel)
[[ -n $rotel && -x $rotel ]] || die "no rotel: python3 -m venv .build-tools/venv && .build-tools/venv/bin/pip install rotel, or set ROTEL"

work=$(mktemp -d "${TMPDIR:-/tmp}/rotel-chain.XXXXXX")
pid_a='' pid_b='' pid_rotel='' pid_listener=''

stop() { # SIGNAL PID
    [[ -n $2 ]] || return 0
    kill "-$1" "$2" 2>/dev/null || true
    wait "$2" 2>/dev/null || true
}
cleanup() {
    local status=$?
    trap - EXIT
    # In the order of the flow: whoever sends stops first.
    stop TERM "$pid_listener"
    stop TERM "$pid_a"
    stop TERM "$pid_rotel"
    stop TERM "$pid_b"
    if ((status == 0)); then rm -rf "$work"; else say "logs are in $work"; fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The sum of the samples of METRIC whose labels contain LABEL; 0 if there are none.
metric() { # URL METRIC LABEL
    local page
    page=$(curl -fsS --max-time 5 "$1/metrics") || return 1
    awk -v name="$2" -v label="$3" '
        index($1, name "{") == 1 && index($1, label) { sum += $2 }
        END { printf "%d\n", sum }' <<<"$page"
}
wait_for() { # NAME PID LOG COMMAND...
    local name=$1 pid=$2 log=$3
    shift 3
    for _ in {1..150}; do
        kill -0 "$pid" 2>/dev/null || { tail -n 20 "$log" >&2; die "$name ended at once"; }
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    tail -n 20 "$log" >&2
    die "$name did not answer in 15 seconds"
}
# A wrong answer would come from whatever already listens there.
for port in "$a_port" "$b_port" "$rotel_port" "$rotel_grpc_port"; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then die "port $port is taken"; fi
done

# B exports nothing of its own, and must not get A's service.instance.id: it would drop A's spans.
env -u OTEL_EXPORTER_OTLP_ENDPOINT -u OTEL_EXPORTER_OTLP_TRACES_ENDPOINT -u OTEL_RESOURCE_ATTRIBUTES \
    "$isotherm" serve --listen "127.0.0.1:$b_port" --data "$work/b" >"$work/b.log" 2>&1 &
pid_b=$!
wait_for "isotherm B" "$pid_b" "$work/b.log" curl -fsS --max-time 2 "$b/livez"

# The gRPC port is not used; it is set because its default may be taken. rotel drops a
# request that is well above its batch size, so A's export batches stay below it.
"$rotel" start \
    --otlp-http-endpoint "127.0.0.1:$rotel_port" --otlp-grpc-endpoint "127.0.0.1:$rotel_grpc_port" \
    --batch-max-size 8192 --batch-timeout 200ms \
    --exporter otlp --otlp-exporter-protocol http --otlp-exporter-endpoint "$b" \
    >"$work/rotel.log" 2>&1 &
pid_rotel=$!
# Any answer will do: a GET is not one that a receiver accepts.
wait_for rotel "$pid_rotel" "$work/rotel.log" curl -sS --max-time 2 -o /dev/null "http://127.0.0.1:$rotel_port/v1/traces"

env -u OTEL_EXPORTER_OTLP_TRACES_ENDPOINT -u OTEL_TRACES_SAMPLER \
    OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:$rotel_port" OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf \
    OTEL_SERVICE_NAME=isotherm-chain OTEL_BSP_MAX_EXPORT_BATCH_SIZE=512 OTEL_BSP_SCHEDULE_DELAY=1000 \
    "$isotherm" serve --listen "127.0.0.1:$a_port" --data "$work/a" --set delivery.acknowledgement_probes=0 >"$work/a.log" 2>&1 &
pid_a=$!
wait_for "isotherm A" "$pid_a" "$work/a.log" curl -fsS --max-time 2 "$a/livez"

say "A (events)  $a"
say "rotel       http://127.0.0.1:$rotel_port/v1/traces"
say "B (heatmap) $b/heatmap — or: $isotherm heatmap $b"

curl -sSN --max-time 300 -H 'Accept: text/event-stream' -H 'X-Device-Group: rotel-chain' -H 'X-Device-ID: chain-1' \
    "$a/v1/events/chain" >"$work/listener.txt" 2>"$work/listener.log" &
pid_listener=$!
listening() { (($(metric "$a" isotherm_connections "") > 0)); }
wait_for "the listener" "$pid_listener" "$work/listener.log" listening

for ((i = 1; i <= events; i++)); do
    curl -fsS --max-time 5 -o /dev/null -H 'Content-Type: application/json' -d "{\"n\":$i}" "$a/v1/events/chain" \
        || die "event $i was not accepted"
done
# One `id:` line for each event. The stream's opening has none.
received() { grep -c '^id:' "$work/listener.txt" || true; }
for _ in {1..100}; do
    (($(received) >= events)) && break
    sleep 0.1
done
(($(received) == events)) || die "the listener has $(received) of $events events"
say "published $events events; the listener has them all"

stop TERM "$pid_listener"
pid_listener=''
sleep 2 # two of A's export intervals
scraped=$(metric "$a" isotherm_telemetry_spans_total 'outcome="exported"') || die "A does not answer /metrics"

# A exports its last spans while it shuts down, after /metrics has gone: the final count is in the
# ledger that it logs then. Without one, the last scrape has to do, and spans after it show as a
# difference.
kill -TERM "$pid_a"
status_a=0
wait "$pid_a" || status_a=$?
pid_a=''
((status_a == 0)) || say "A ended with status $status_a"
exported=$(sed -n 's/.*spans: started .* + exported \([0-9][0-9]*\) .*/\1/p' "$work/a.log" | tail -n 1)
if [[ -z $exported ]]; then
    say "A logged no span ledger; using its last scrape"
    exported=$scraped
fi

# Until the counts agree, or 15 seconds have passed; then once more, since a repeated batch would
# come late and be too many.
for _ in {1..150}; do
    arrived=$(metric "$b" isotherm_otlp_received_spans_total 'outcome="received"') || die "B does not answer /metrics"
    ((arrived >= exported)) && break
    sleep 0.1
done
sleep 1
arrived=$(metric "$b" isotherm_otlp_received_spans_total 'outcome="received"') || die "B does not answer /metrics"

printf 'exported by A  %s\nreceived by B  %s\n' "$exported" "$arrived"
((exported > 0)) || die "A exported no span: the check says nothing"
((exported == arrived)) || die "the counts differ by $((arrived - exported))"
say "every exported span arrived"

if [[ ${KEEP:-} == 1 ]]; then
    say "B goes on: $b/heatmap — Ctrl-C ends it"
    wait "$pid_b"
fi
