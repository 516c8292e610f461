#!/usr/bin/env bash
# Kills a training with SIGKILL again and again, goes on with it each time, and compares its end with that of one that
# nothing happened to: both must be the same to the bit, and no kill may cost more than the steps since the last
# checkpoint.
#
#   scripts/soak.sh [KILLS] [SECONDS_MAX]
#
# Prints a line for each kill and a verdict; status 0 if all held. Takes 3 to 5 minutes with the default of 100 kills.
# Needs bash, python3 and a release build (cargo build --release; or RECTIFLOW names another program).
set -euo pipefail
cd "$(dirname "$0")/.."

kills=${1:-100} seconds_max=${2:-600}
program=${RECTIFLOW:-$PWD/target/release/rectiflow}
[ -x "$program" ] || { echo "no $program: run cargo build --release first" >&2; exit 2; }
desk=$(mktemp -d)
trainer=
trap 'if [ -n "$trainer" ]; then kill -9 "$trainer" 2>/dev/null || true; fi; rm -rf "$desk"' EXIT

# Steps are short and checkpoints frequent, so that kills hit all there is: starts, steps, pictures, checkpoints.
every=20
cat > "$desk/recipe.toml" <<RECIPE
steps = 1000000
batch = 3
record_every = 1
precision = "f32"
objective = { kind = "flow" }
model = { kind = "mmdit", depth = 1, grid = 8 }
schedule = { learning_rate = 1e-3, warmup_steps = 10 }
ema = [{ kind = "decay", decay = 0.99 }]
validation = { every = 50, samples = 4 }
checkpoint = { every = $every }
[data]
encoders = "$PWD/fixtures/empty/model"
cache = "$desk/cache"
source = { kind = "sprites", path = "$PWD/assets/sprites", count = 64, side_px = 32 }
RECIPE
"$program" cache "$desk/recipe.toml" >/dev/null 2>"$desk/cache.err" || { cat "$desk/cache.err"; exit 1; }

train() { "$program" train "$desk/recipe.toml" --out "$desk/$1" "${@:2}" >"$desk/$1.out" 2>"$desk/$1.err"; }

# The last step of the journal, and the last checkpoint that is whole under its name.
last_step() { tail -c 20000 "$desk/killed/journal.jsonl" 2>/dev/null | grep -o '"event":"step","step":[0-9]*' | tail -n 1 | grep -o '[0-9]*$' || echo 0; }
last_checkpoint() {
    find "$desk/killed/checkpoints" -maxdepth 1 -name 'step-*[0-9]' 2>/dev/null | sed 's/.*step-0*//' | sort -n | tail -n 1 | grep . || echo 0
}

failed=0
RANDOM=7
started=$SECONDS
resume=()
for ((number = 1; number <= kills; number++)); do
    if ((SECONDS - started > seconds_max)); then
        echo "stopped after $((number - 1)) kills: $seconds_max s are over"
        break
    fi
    "$program" train "$desk/recipe.toml" --out "$desk/killed" "${resume[@]}" >/dev/null 2>"$desk/killed.err" &
    trainer=$!
    # From the start of the process, or from when it trains: 0.1 to 3 s.
    sleep "$((RANDOM % 3)).$((RANDOM % 9 + 1))"
    if ! kill -9 "$trainer" 2>/dev/null; then
        echo "FAILED: process $number ended by itself: $(tail -n 3 "$desk/killed.err")"
        exit 1
    fi
    wait "$trainer" 2>/dev/null || true
    trainer=
    step=$(last_step) checkpoint=$(last_checkpoint)
    lost=$((step - checkpoint))
    half=$(ls -d "$desk/killed/checkpoints/"*.partial 2>/dev/null | wc -l || true)
    note=
    if ((half > 0)); then note=", a checkpoint half written"; fi
    if ((lost > every)); then note="$note: FAILED, more than $every" failed=1; fi
    echo "kill $number: at step $step, checkpoint $checkpoint, $lost steps lost$note"
    if [ -e "$desk/killed/plan.toml" ]; then resume=(--resume); fi
done

# Both to the same last step.
steps=$(($(last_step) / every * every + 2 * every))
train killed "${resume[@]}" --steps "$steps" || { cat "$desk/killed.err"; exit 1; }
train whole --steps "$steps" || { cat "$desk/whole.err"; exit 1; }
python3 - "$desk" "$steps" <<'PYTHON' || failed=1
import json
import pathlib
import sys

desk, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
killed, whole = desk / "killed", desk / "whole"
same = True
folder = f"checkpoints/step-{steps:06d}"
for path in sorted((whole / folder).iterdir()):
    other = killed / folder / path.name
    if not other.exists() or other.read_bytes() != path.read_bytes():
        print(f"FAILED: {folder}/{path.name} differs")
        same = False


def losses(run):
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [(event["step"], event["values"]) for event in events if event["event"] in ("step", "validation")]


if losses(killed) != losses(whole):
    print("FAILED: the journals differ")
    same = False
if same:
    print(f"after {steps} steps: the same checkpoint to the bit, and the same journal")
sys.exit(not same)
PYTHON
if ((failed)); then
    echo "FAILED"
    exit 1
fi
echo "held: $((number - 1)) kills in $((SECONDS - started)) s"
