#!/usr/bin/env bash
# Kernel settings for a host that runs Ringcast: look, change, change back.
#
#   tuning/host.sh --check              what is set, what is wanted, why (default; changes nothing)
#   tuning/host.sh --apply [--dry-run]  set what falls short; old values go to the state file
#   tuning/host.sh --revert [--dry-run] restore the values of the state file
#
# --state FILE  where old values are kept (default /var/lib/ringcast/tuning.state)
#
# Only raises: a value that is already at or above the wanted one stays. Applying twice changes nothing more.
# Settings last until the next boot; put the lines that --apply prints into /etc/sysctl.d/ to keep them.
set -euo pipefail

# name | wanted | why
SETTINGS='
net.core.somaxconn|4096|connections that wait for an accept; a reconnect storm fills a short queue and clients time out
net.ipv4.tcp_max_syn_backlog|8192|half-open connections of the same storm
net.core.netdev_max_backlog|16384|packets that wait for a core; bursts to all clients come back as as many acknowledgements
net.ipv4.tcp_migrate_req|1|a listener that closes hands its queued connections to another one instead of resetting them
net.netfilter.nf_conntrack_max|1048576|a connection-tracked host has no more connections than this; absent without conntrack
'

action=check dry_run=0 state=/var/lib/ringcast/tuning.state

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "$0"
}

fail() {
    echo "tuning/host.sh: $1" >&2
    exit 2
}

while (($#)); do
    case $1 in
        --check | --apply | --revert) action=${1#--} ;;
        --dry-run) dry_run=1 ;;
        --state)
            shift
            [[ $# -gt 0 ]] || fail "--state wants a file"
            state=$1
            ;;
        --help)
            usage
            exit 0
            ;;
        *) fail "unknown argument $1; see --help" ;;
    esac
    shift
done

path_of() {
    echo "/proc/sys/${1//.//}"
}

write() {
    local name=$1 value=$2
    echo "$name = $value"
    ((dry_run)) || echo "$value" >"$(path_of "$name")" || fail "cannot set $name: run as root"
}

each_setting() {
    local visit=$1 name wanted why
    while IFS='|' read -r name wanted why; do
        [[ -n $name ]] || continue
        if [[ ! -e $(path_of "$name") ]]; then
            [[ $action == check ]] && printf '  -  %-32s absent here\n' "$name"
            continue
        fi
        "$visit" "$name" "$(cat "$(path_of "$name")")" "$wanted" "$why"
    done <<<"$SETTINGS"
}

check_one() {
    local mark=ok
    (($2 >= $3)) || mark='!!'
    printf '  %s %-32s %s, wanted %s: %s\n' "$mark" "$1" "$2" "$3" "$4"
}

apply_one() {
    (($2 >= $3)) && return
    if ! ((dry_run)) && ! grep -qs "^$1=" "$state"; then
        mkdir -p "$(dirname "$state")"
        echo "$1=$2" >>"$state"
    fi
    write "$1" "$3"
}

check_limits() {
    local disabled=/proc/sys/kernel/io_uring_disabled
    printf '  -  %-32s %s: connections of one shard, not of the process\n' "ulimit -n" "$(ulimit -Hn)"
    printf '  -  %-32s %s: must be unlimited for a user without CAP_IPC_LOCK\n' "ulimit -l" "$(ulimit -Hl)"
    [[ ! -e $disabled ]] || printf '  -  %-32s %s: must be 0, or 1 with the group of the broker in kernel.io_uring_group\n' \
        kernel.io_uring_disabled "$(cat $disabled)"
}

case $action in
    check)
        each_setting check_one
        check_limits
        ;;
    apply) each_setting apply_one ;;
    revert)
        [[ -s $state ]] || fail "nothing to revert: $state does not exist"
        while IFS='=' read -r name value; do
            write "$name" "$value"
        done <"$state"
        ((dry_run)) || rm -f "$state"
        ;;
esac
