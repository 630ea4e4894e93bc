#!/usr/bin/env bash
# Makes sure that there is a Chromium for the tests of the page: WINNOW_TEST_BROWSER, one on the PATH, or Debian's.
set -euo pipefail
if [[ -n "${WINNOW_TEST_BROWSER:-}" ]]; then
    [[ -x "$WINNOW_TEST_BROWSER" ]] && exit 0
    echo "WINNOW_TEST_BROWSER=$WINNOW_TEST_BROWSER is no program" >&2
    exit 1
fi
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then
    echo "Installing Chromium for the tests of the page …"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
    command -v chromium >/dev/null && exit 0
fi
cat >&2 <<'SAY'
The tests of the page need a Chromium and found none. Install one (Debian and Ubuntu: sudo apt-get install chromium),
or say where it is: WINNOW_TEST_BROWSER=/path/to/chromium make test
SAY
exit 1
