# shellcheck shell=bash
# What the launchers share: their arguments, what they say, and whether a run is started again.
#
# In the environment of each of them:
#   DRY_RUN=1    as -n: print what would be started, and start nothing
#   RESTARTS     starts after the first, at most; default 100
#   FRUITLESS    starts in a row that bring no new checkpoint, at most; default 3
#   PAUSE_S      seconds before a start; default 5

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "${0##*/}: bash 4.4 or newer is needed, and this is $BASH_VERSION" >&2
    exit 2
fi
DRY_RUN=${DRY_RUN:-}
RESTARTS=${RESTARTS:-100}
FRUITLESS=${FRUITLESS:-3}
PAUSE_S=${PAUSE_S:-5}
INPUT=2    # with this cosyjax ends for bad input
STOPPED=75 # with this it ends where it was asked to, see --stopped-status

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

refuse() {
    say "$*"
    exit "$INPUT"
}

# The header of the launcher itself.
usage() {
    sed -n '2,/^[^#]/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2
    exit "$INPUT"
}

# Sets `verb` and `arguments` from the launcher's own.
read_arguments() {
    if [ "${1:-}" = -n ]; then
        DRY_RUN=1
        shift
    fi
    verb=${1:-}
    [ "$verb" = train ] || [ "$verb" = prepare ] || usage
    arguments=("${@:2}")
    local word
    for word in "${arguments[@]}"; do
        case $word in
            --process | --process=* | --num-processes* | --coordinator* | --stopped-status*)
                refuse "$word: the launcher itself tells the processes apart"
                ;;
        esac
    done
    folder=$(find_folder)
    [ -n "$folder" ] || refuse "$verb needs $([ "$verb" = train ] && echo --workdir || echo OUT)"
    for word in RESTARTS FRUITLESS PAUSE_S; do
        whole_number "$word" 0
    done
}

# Refuses a variable ($1) that is no whole number from $2 on.
whole_number() {
    [[ ${!1} =~ ^[0-9]+$ ]] || refuse "$1=${!1}: give a whole number from $2 on"
    ((${!1} >= $2)) || refuse "$1=${!1}: it is at least $2"
}

# Where the run leaves what it has reached: --workdir of train, the last word of prepare.
find_folder() {
    local word before='' found=''
    for word in "${arguments[@]}"; do
        if [ "$verb" = train ]; then
            [ "$before" != --workdir ] || found=$word
            [[ $word != --workdir=* ]] || found=${word#*=}
        elif [[ $word != --* && ($before != --* || $before == *=*) ]]; then
            found=$word
        fi
        before=$word
    done
    printf '%s' "$found"
}

# How far the run is: its last checkpoint, or how many parts of the data are there.
progress() {
    local entry reached=0
    if [ "$verb" = prepare ]; then
        for entry in "$folder"/*/*/*/part.json; do
            [ -f "$entry" ] && ((++reached))
        done
    else
        for entry in "$folder"/checkpoints/*/; do
            entry=$(basename "$entry")
            [[ $entry =~ ^[0-9]+$ ]] && ((entry > reached)) && reached=$entry
        done
    fi
    printf '%s' "$reached"
}

restarts=0
fruitless=0
# Whether a run that has ended with status $1 is started again; says why, or why not.
another_start() {
    local now
    now=$(progress)
    if [ "$now" != "$reached" ]; then
        fruitless=0
    else
        ((++fruitless))
    fi
    reached=$now
    if (($1 == STOPPED)); then
        say "it was asked to end, and has saved; the same command goes on"
    elif (($1 == INPUT && fruitless)); then
        say "bad input: another start would not mend it"
    elif ((fruitless && fruitless >= FRUITLESS)); then
        say "gave up: status $1, and no new checkpoint in $fruitless starts (FRUITLESS)"
    elif ((restarts >= RESTARTS)); then
        say "gave up: status $1 after $restarts restarts (RESTARTS)"
    else
        ((++restarts))
        say "status $1; start $((restarts + 1)) goes on from $now in $PAUSE_S s"
        return 0
    fi
    return 1
}

# Sleeps $1 seconds, or until a signal.
nap() {
    sleep "$1" &
    local sleeper=$!
    wait "$sleeper"
    kill "$sleeper" 2>/dev/null
    wait "$sleeper" 2>/dev/null
}

# Waits for process $1 to its end, whatever signals come, and returns its status.
wait_through() {
    local status later
    while :; do
        wait "$1"
        status=$?
        kill -0 "$1" 2>/dev/null || break
    done
    wait "$1" 2>/dev/null
    later=$?
    ((later == 127)) || status=$later
    return "$status"
}

# Prints a command as it could be typed.
shown() {
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "${line% }"
}
