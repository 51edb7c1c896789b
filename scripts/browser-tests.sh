#!/usr/bin/env bash
# Opens a report in headless Chromium and uses it: scripts/browser-tests.sh DIR PROGRAM, with DIR the folder of an experiment
# and PROGRAM the program that made it. Needs node 20 or newer; installs Debian's Chromium where there is none, and
# playwright-core, which drives it, and axe-core into a cache. PICTURES=FOLDER keeps screenshots.
set -euo pipefail
here=$(cd "$(dirname "$0")/../tests/browser" && pwd)
REPORT=$(realpath "$1") PROGRAM=$(realpath "$2")
export REPORT PROGRAM

CHROMIUM=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$CHROMIUM" ]; then
  # Not every environment has sudo, and not every one needs it.
  as_root=$([ "$(id -u)" = 0 ] || echo sudo)
  $as_root apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends chromium >&2
  CHROMIUM=$(command -v chromium)
fi
export CHROMIUM

cache="${XDG_CACHE_HOME:-$HOME/.cache}/mantissa/browser-tests"
mkdir -p "$cache"
cp "$here/package.json" "$here/report.test.mjs" "$cache/"
cd "$cache"
PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent --no-audit --no-fund --no-package-lock
node --test --test-reporter=spec report.test.mjs
