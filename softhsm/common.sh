# What the scripts beside this one share. Read, not run.

fail() {
	echo "softhsm/$(basename "$0"): $*" >&2
	exit 1
}

# directory DIR makes it, and the token's folder in $dir. What a stopped run has
# left there is taken up.
directory() {
	[ $# -eq 1 ] && [ -n "$1" ] || {
		echo "usage: softhsm/$(basename "$0") DIR" >&2
		exit 2
	}
	umask 077
	mkdir -p -- "$1"
	dir=$(cd -- "$1" && pwd -P)
	[[ $dir != *[[:space:]=#\'\"]* ]] || fail "$dir: not with a blank, a quote, = or # in it"
}

# random N prints N random hex digits.
random() { od -An -N"$((($1 + 1) / 2))" -tx1 /dev/urandom | tr -d ' \n' | cut -c1-"$1"; }

# pin N makes $dir/pin once. PINs go to the tools by the environment, which unlike
# argv only the same user can read.
pin() {
	[ -s "$dir/pin" ] || {
		random "$1" >"$dir/pin.new"
		mv -- "$dir/pin.new" "$dir/pin"
	}
	KEYD_PIN=$(cat -- "$dir/pin")
	export KEYD_PIN
}

# module PATTERN finds the library.
module() {
	module=$(compgen -G "$1" | head -n1) || fail "$1 is missing: make tokens-install installs it"
}

# quietly COMMAND... runs it, and shows what it said only if it fails.
quietly() { "$@" >"$dir/log" 2>&1 || fail "$*: $(tail -n5 -- "$dir/log")"; }

# show prints what keyd must be told, for eval.
show() {
	printf 'module=%s\ntoken=%s\npin_file=%s\ninit_args=%q\n' "$module" "$token" "$dir/pin" "${init_args:-}"
}

# runs PIDFILE tells whether the process is there still. One that has ended and is
# not waited for, as in a container, is not.
runs() { [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$(cat -- "$1")/status"; }

# within SECONDS COMMAND... waits until it succeeds.
within() {
	local until=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$until" ] || return 1
		sleep 0.05
	done
}

# stopper PIDFILE... writes DIR/stop, which ends the processes, one after the
# other, and waits until they have.
stopper() {
	{
		echo '#!/bin/sh'
		printf 'for f in'
		printf ' %q' "$@"
		cat <<-'STOP'
			; do
				pid=$(cat "$f" 2>/dev/null) && kill "$pid" 2>/dev/null || continue
				while grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status"; do sleep 0.05; done
				rm -f "$f"
			done
		STOP
	} >"$dir/stop"
	chmod +x -- "$dir/stop"
}
