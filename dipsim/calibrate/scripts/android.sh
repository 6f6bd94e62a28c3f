#!/bin/sh
# Measures a phone for dipsim: its flash, its memory, and how fast it runs language models.
#
# Run it in Termux or in adb shell (docs/measuring-a-phone.md). It uses what it finds of fio, mbw,
# STREAM and llama-bench, leaves out the rest, waits between steps until the battery is cool, and
# packs all that was printed, with a list of what was run and what was not, into dipsim-phone.tar.
# Options are variables: MODELS=/sdcard/models BUDGET=600 sh android.sh
#
#   MODELS        folder whose *.gguf are run                                      [.]
#   LLAMA_BENCH   program that runs them                                           [llama-bench]
#   LLAMA_OPTIONS more options of it, e.g. "-ngl 99" for a GPU                     []
#   THREADS       numbers of threads that are tried       [half and 3/4 of the cores]
#   STREAM        program of STREAM                                                [stream_c.exe]
#   FLASH         folder on the flash to measure; no SD card, not /sdcard          [.]
#   FILE_MB       size of the file that is written there, and removed at the end   [1024]
#   SPARE_MB      space that must stay free beside it                              [1024]
#   READ_SECONDS  longest time of one way to read; none reads the file more than
#                 once per read in flight                                          [3]
#   STEP_SECONDS  longest time of one run of llama-bench                           [150]
#   BUDGET        seconds in all, pauses included                                  [900]
#   COOL, HOT     degrees C of the battery: a step waits until it is at most COOL,
#                 and is left out at HOT                                           [36, 46]
#   COOL_WAIT     longest wait before a step, in seconds; then it runs as it is    [120]
#   REST          pause before a model where no temperature can be read            [15]
#   OUT           file that the outputs are packed into                            [dipsim-phone.tar]
#   SYS, PROC     where the kernel's files are                                     [/sys, /proc]
#
# Android's shell counts in 32 bits, so sizes are in MB here, and kB are divided before use.

set -u
MODELS=${MODELS:-.} LLAMA_BENCH=${LLAMA_BENCH:-llama-bench} LLAMA_OPTIONS=${LLAMA_OPTIONS:-}
THREADS=${THREADS:-} STREAM=${STREAM:-stream_c.exe} FLASH=${FLASH:-.} OUT=${OUT:-dipsim-phone.tar}
FILE_MB=${FILE_MB:-1024} SPARE_MB=${SPARE_MB:-1024} READ_SECONDS=${READ_SECONDS:-3}
STEP_SECONDS=${STEP_SECONDS:-150} BUDGET=${BUDGET:-900} COOL=${COOL:-36} HOT=${HOT:-46}
COOL_WAIT=${COOL_WAIT:-120} REST=${REST:-15} SYS=${SYS:-/sys} PROC=${PROC:-/proc}
SIZES="4k 16k 64k 128k 256k 512k 1m 4m" DEPTHS="1 4 8"
PAUSE=10  # seconds between two looks at the temperature
LEAST=5   # seconds of the budget that a step needs at least

die() {
    echo "dipsim-phone: $*" >&2
    exit 2
}

have() {
    command -v "$1" >/dev/null 2>&1
}

note() {  # note TEXT [COMMAND]: one line of the list of steps
    echo "$1"
    echo "$1${2:+: $2}" >>"$work/steps.txt"
}

left_out() {  # left_out WHAT WHY
    note "left out: $1: $2"
}

# Temperature of the battery, in tenths of a degree ------------------------------------------------

tenths() {  # of a temperature in tenths (a battery's), or of degrees or thousandths of them
    case $1 in '' | *[!0-9]* | ???????*) return ;; esac
    if [ "$1" -gt 1000 ]; then
        echo $(($1 / 100))
    elif [ "${2:-}" = tenths ] || [ "$1" -gt 100 ]; then
        echo "$1"
    else
        echo $(($1 * 10))
    fi
}

temperature() {  # by $thermometer; nothing where it tells nothing
    case $thermometer in
    battery) tenths "$(cat "$SYS/class/power_supply/battery/temp" 2>/dev/null)" tenths ;;
    dumpsys) tenths "$(timeout 5 dumpsys battery 2>/dev/null </dev/null |
        sed -n 's/^ *temperature: *\([0-9]*\).*/\1/p' | head -n 1)" tenths ;;
    termux) tenths "$(timeout 5 termux-battery-status 2>/dev/null </dev/null |
        sed -n 's/.*"temperature": *\([0-9]*\).*/\1/p' | head -n 1)" ;;
    zone)
        for zone in "$SYS"/class/thermal/thermal_zone*; do
            case $(cat "$zone/type" 2>/dev/null) in
            *[Bb]att* | *skin* | *quiet*)
                tenths "$(cat "$zone/temp" 2>/dev/null)"
                return
                ;;
            esac
        done
        ;;
    esac
}

find_thermometer() {
    for thermometer in battery dumpsys termux zone; do
        [ -n "$(temperature)" ] && return
    done
    thermometer=none
}

degrees() {  # 315 -> 31.5 C
    if [ -n "$1" ]; then echo "$(($1 / 10)).$(($1 % 10)) C"; else echo "? C"; fi
}

seconds_left() {
    echo $((BUDGET - $(date +%s) + start))
}

cool_down() {  # wait until the battery is cool, COOL_WAIT seconds at most; sets $warmth
    warmth=$(temperature)
    [ -n "$warmth" ] || return
    waited=0
    while [ "$warmth" -gt $((COOL * 10)) ] && [ "$waited" -lt "$COOL_WAIT" ] &&
        [ "$(seconds_left)" -ge $((LEAST + PAUSE)) ]; do
        sleep "$PAUSE"
        waited=$((waited + PAUSE))
        warmth=$(temperature)
        [ -n "$warmth" ] || return
    done
    [ "$waited" -eq 0 ] || note "waited: $waited s, now $(degrees "$warmth")"
}

rest() {  # before what heats a phone, where no temperature tells when it is cool
    if [ "$thermometer" = none ] && [ "$(seconds_left)" -ge $((LEAST + REST)) ]; then
        sleep "$REST"
    fi
}

# Steps --------------------------------------------------------------------------------------------

run() {  # run NAME SECONDS OUTPUT COMMAND...: one step, bounded; its exit status
    name=$1 limit=$2 output=$3
    shift 3
    cool_down
    left=$(seconds_left)
    if [ "$left" -lt "$LEAST" ]; then
        left_out "$name" "the budget of $BUDGET s is used up"
        return 1
    fi
    if [ -n "$warmth" ] && [ "$warmth" -ge $((HOT * 10)) ]; then
        left_out "$name" "the battery is at $(degrees "$warmth")"
        return 1
    fi
    [ "$limit" -le "$left" ] || limit=$left
    began=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$work/$output" 2>"$work/errors" </dev/null &
    child=$!
    wait "$child"
    status=$?
    child=
    took="$(($(date +%s) - began)) s, $(degrees "$warmth") to $(degrees "$(temperature)")"
    case $status in
    0) note "ran: $name: $took" "$*" ;;
    124 | 137 | 143) note "stopped after $limit s: $name: $took" "$*" ;;
    *) note "failed: $name: $took: status $status: $(tail -n 1 "$work/errors")" "$*" ;;
    esac
    [ -s "$work/$output" ] || rm -f "$work/$output"
    return "$status"
}

facts() {  # of the device; no serial number
    {
        date -u +%Y-%m-%dT%H:%M:%SZ
        uname -srm
        if have getprop; then
            for key in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model \
                ro.board.platform ro.hardware ro.build.version.release; do
                echo "$key=$(getprop "$key" </dev/null)"
            done
        fi
        [ "$thermometer" != dumpsys ] || timeout 5 dumpsys battery </dev/null
        grep -v -i '^serial' "$PROC/cpuinfo"
    } >"$work/device.txt" 2>/dev/null
    cat "$PROC/meminfo" >"$work/meminfo.txt" 2>/dev/null
    note "thermometer: $thermometer, $(degrees "$(temperature)")"
}

measure_flash() {
    if ! have fio; then
        left_out flash "no fio"
        return
    fi
    free=$(df -Pk "$work" 2>/dev/null | sed -n '2p' | { read -r _ _ _ kb _ && echo "$kb"; })
    case $free in
    '' | *[!0-9]*)
        left_out flash "df does not tell the free space of $FLASH"
        return
        ;;
    esac
    if [ $((free / 1024)) -lt $((FILE_MB + SPARE_MB)) ]; then
        left_out flash "$((free / 1024)) MB are free in $FLASH, $((FILE_MB + SPARE_MB)) are needed"
        return
    fi
    run "file of $FILE_MB MB" 120 made.txt \
        dd if=/dev/urandom of="$work/flash.bin" bs=1048576 count="$FILE_MB" || return
    sync
    for depth in $DEPTHS; do
        for size in $SIZES; do
            run "reads of $size, $depth in flight" $((READ_SECONDS + 15)) "fio-$size-$depth.json" \
                fio --name=reads --filename="$work/flash.bin" --readonly --rw=randread --direct=1 \
                --ioengine=psync --thread --numjobs="$depth" --group_reporting --bs="$size" \
                --size="${FILE_MB}m" --runtime="$READ_SECONDS" --output-format=json
        done
    done
    rm -f "$work/flash.bin"
}

available_mb() {  # DRAM that programs may take; nothing where the kernel does not tell
    kb=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB.*/\1/p' "$PROC/meminfo" 2>/dev/null)
    [ -z "$kb" ] || echo $((kb / 1024))
}

fits() {  # fits WHAT MB: whether DRAM has room; if not, that is noted
    room=$(available_mb)
    if [ -n "$room" ] && [ "$room" -lt "$2" ]; then
        left_out "$1" "takes $2 MB, $room MB of DRAM are available"
        return 1
    fi
}

measure_memory() {
    if ! have mbw; then
        left_out mbw "no mbw"
    elif fits mbw 1024; then
        run mbw 60 mbw.txt mbw -n 5 256
    fi
    if have "$STREAM"; then
        run STREAM 60 stream.txt "$STREAM"
    else
        left_out STREAM "no $STREAM"
    fi
}

cores() {
    grep -c '^processor' "$PROC/cpuinfo" 2>/dev/null || true
}

some_threads() {  # half of the cores, and three quarters: the largest ones, as a rule
    all=$(cores)
    [ "${all:-0}" -ge 1 ] || all=8
    half=$(((all + 1) / 2)) most=$((all * 3 / 4))
    if [ "$most" -gt "$half" ]; then echo "$half $most"; else echo "$half"; fi
}

run_models() {  # run_models DEPTH OPTION...: every model with each number of threads
    depth=$1
    shift
    for threads in $THREADS; do
        for model in "$MODELS"/*.gguf; do
            case $model in *-0000[2-9]-of-*.gguf | *-000[1-9]?-of-*.gguf) continue ;; esac
            step="${model##*/}, $threads threads, depth $depth"
            kb=$(du -k "$model" | { read -r kb _ && echo "$kb"; })
            fits "$step" $((kb / 1024 + 300)) || continue
            count=$((count + 1))
            rest
            # shellcheck disable=SC2086  # LLAMA_OPTIONS are several words
            run "$step" "$STEP_SECONDS" "llama-bench-$count.jsonl" \
                "$LLAMA_BENCH" -m "$model" -t "$threads" -r 3 -o jsonl "$@" $LLAMA_OPTIONS
        done
    done
}

measure_models() {
    if ! have "$LLAMA_BENCH"; then
        left_out models "no $LLAMA_BENCH"
        return
    fi
    set -- "$MODELS"/*.gguf
    if [ ! -e "$1" ]; then
        left_out models "no *.gguf in $MODELS"
        return
    fi
    count=0
    run_models 0 -p 512 -n 64
    run_models 2048 -p 0 -n 64 -d 2048
}

# The whole ----------------------------------------------------------------------------------------

finish() {  # pack what was measured, and remove all else
    trap '' INT TERM HUP
    rm -f "$work/flash.bin" "$work/errors"
    if tar -cf "$OUT.part" -C "$work" . && mv "$OUT.part" "$OUT"; then
        rm -rf "$work"
        echo "packed: $OUT"
    else
        rm -f "$OUT.part"
        die "could not pack the outputs into $OUT: they lie in $work"
    fi
}

interrupted() {
    trap '' INT TERM HUP
    if [ -n "$child" ]; then
        ! have pkill || pkill -P "$child"  # Android's timeout does not pass a signal on
        kill "$child" 2>/dev/null
        wait "$child"
    fi
    note "interrupted: all that is not above was left out"
    finish
    exit 130
}

for name in FILE_MB SPARE_MB READ_SECONDS STEP_SECONDS BUDGET COOL HOT COOL_WAIT REST; do
    eval "value=\$$name"
    case ${value:-} in
    '' | *[!0-9]* | ???????*) die "$name=${value:-}: give a whole number below 1000000" ;;
    esac
done
if [ "$FILE_MB" -lt 4 ] || [ "$READ_SECONDS" -lt 1 ]; then
    die "FILE_MB is at least 4, READ_SECONDS at least 1"
fi
for name in $THREADS; do
    case $name in *[!0-9]*) die "THREADS=$THREADS: give numbers, such as \"4 6\"" ;; esac
done
have timeout || die "no timeout, which bounds every step: install coreutils or toybox"
work=$(mktemp -d "$FLASH/dipsim-phone.XXXXXX") || die "cannot write in $FLASH: set FLASH"
child='' warmth=''
trap interrupted INT TERM HUP
start=$(date +%s)
[ -n "$THREADS" ] || THREADS=$(some_threads)
find_thermometer
facts
measure_flash
measure_memory
measure_models
finish
