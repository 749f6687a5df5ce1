#!/usr/bin/env bash
# Every board test. A script ends with 0, or with 77 where what it needs is not to be had
# here, having said so in a line; anything else is a failure. Arguments name those to leave out.
set -uo pipefail
cd "$(dirname "$0")"
for name in "$@"; do
    case $name in aarch64 | cortex-m) ;; *) echo "boards: there is no '$name' to leave out; aarch64, cortex-m" >&2; exit 2 ;; esac
done
passed=0 failed=0 skipped=0
for name in aarch64 cortex-m; do
    case " $* " in *" $name "*) echo "board $name: left out"; skipped=$((skipped + 1)); continue ;; esac
    case $name in
        cortex-m) ./cortex-m.sh ;;
        *) ./emulated.sh "$name" ;;
    esac
    case $? in
        0) echo "board $name: pass"; passed=$((passed + 1)) ;;
        77) echo "board $name: skipped"; skipped=$((skipped + 1)) ;;
        *) echo "board $name: FAIL"; failed=$((failed + 1)) ;;
    esac
done
echo "boards: $passed pass, $failed fail, $skipped skipped"
[ "$failed" = 0 ]
