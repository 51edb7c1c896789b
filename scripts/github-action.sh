#!/usr/bin/env bash
# The steps of action.yml, one a subcommand: key, build, run, check, comment, finish. Every input arrives in an environment
# variable INPUT_NAME and is never evaluated. `run` and `check` end with 0 whatever they find: the exit code is an output, the
# steps between still run, and `finish` ends with it.
#
# Files are in $RUNNER_TEMP/mantissa/NAME: report/ (what `mantissa experiment` wrote), check.md, junit.xml and check.json (the
# judgement), body.md (summary and comment), and what the commands said, experiment.log and check.log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The most bytes: GitHub refuses a step's summary of more than 1 MiB, and a comment of more than 65,536 characters.
most_in_summary=1000000
most_in_comment=60000

# A value for the steps that follow, and for the workflow. On one line, so that it cannot set another.
output() { printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr -d '\r\n')" >> "$GITHUB_OUTPUT"; }

# Wrong usage, which is also what the job ends with.
fail() {
  printf '::error title=mantissa::%s\n' "$*"
  output exit-code 2
  exit 2
}

# The value $2 of the input $1, which is true or false.
truth() {
  case $2 in
    true | false) ;;
    *) fail "input $1: expected true or false" ;;
  esac
  [ "$2" = true ]
}

# The folder of all files. The name is also that of an artifact and stands in a comment, so it is a plain one.
set_folder() {
  case ${INPUT_NAME:-} in
    '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) fail 'input name: expected letters, digits, ".", "_" and "-", a letter or digit first' ;;
  esac
  folder=$RUNNER_TEMP/mantissa/$INPUT_NAME
}

# The program: the one that is given, or the one that `build` made.
set_program() {
  local given=${INPUT_BINARY:-$RUNNER_TEMP/mantissa-program/mantissa}
  program=$(command -v -- "$given") || fail "no program at $given: give the path of mantissa, or its name, as the input binary"
}

# The exit code as `mantissa` documents it: one that a signal or a panic left means that a run or the machine failed.
documented() {
  case $1 in
    [0-4]) printf '%s' "$1" ;;
    *) printf 3 ;;
  esac
}

# The last line of a log without the program's name: what a command came to.
last_line() { tail -n 1 "$1" | sed 's/^mantissa: //'; }

# The start of the file $1, whole lines of at most $2 bytes; where that is not all, it says so.
limited() {
  LC_ALL=C awk -v most="$2" -v name="$INPUT_NAME" '
    { bytes += length($0) + 1 }
    bytes > most { print "\nThe rest is left out here; it is in the artifact " name "."; exit }
    { print }' "$1"
}

# ---- key, build

# The toolchain of the build: a recent one where rustup can install it, else the one that is there.
use_toolchain() {
  command -v rustup > /dev/null || return 0
  rustup toolchain install stable --profile minimal --no-self-update > /dev/null
  export RUSTUP_TOOLCHAIN=stable
}

# Names the program that `build` makes here: by its sources, the compiler and the system that it is linked with.
key() {
  local sources
  use_toolchain
  command -v cargo > /dev/null || fail 'cargo is missing: install Rust, or give the path of mantissa as the input binary'
  cd "$here"
  sources=$(find src build build.rs Cargo.toml Cargo.lock askama.toml experiments/default.toml -type f | LC_ALL=C sort |
    git hash-object --stdin-paths | git hash-object --stdin)
  output key "mantissa-${RUNNER_OS:-}-${RUNNER_ARCH:-}-${ImageOS:-}-$(rustc --version | tr -c 'A-Za-z0-9.\n' -)-$sources"
}

build() {
  use_toolchain
  cargo build --release --locked --bin mantissa --manifest-path "$here/Cargo.toml" --target-dir "$RUNNER_TEMP/mantissa-build"
  mkdir -p "$RUNNER_TEMP/mantissa-program"
  cp "$RUNNER_TEMP/mantissa-build/release/mantissa" "$RUNNER_TEMP/mantissa-program/"
}

# ---- run, check

run() {
  local code=0
  set_folder
  set_program
  [ -n "${INPUT_SPEC:-}" ] || fail 'input spec: expected the file of an experiment'
  rm -rf -- "$folder"
  mkdir -p "$folder"
  "$program" experiment --out="$folder/report" --device="$INPUT_DEVICE" --quiet -- "$INPUT_SPEC" 2> "$folder/experiment.log" || code=$?
  cat "$folder/experiment.log" >&2
  # Only a check finds a regression.
  [ "$code" != 1 ] || code=3
  output exit-code "$(documented "$code")"
}

check() {
  local code=$INPUT_RUN_EXIT_CODE log=experiment.log line arguments
  set_folder
  set_program
  if [ "$code" = 0 ]; then
    log=check.log
    arguments=(--baseline="$INPUT_BASELINE" --format=github)
    for line in markdown=check.md junit=junit.xml json=check.json; do
      arguments+=(--write="${line%%=*}=$folder/${line#*=}")
    done
    if truth strict "$INPUT_STRICT"; then arguments+=(--strict); fi
    while IFS= read -r line; do
      line=${line%$'\r'}
      [ -z "$line" ] || arguments+=(--allow="$line")
    done <<< "$INPUT_ALLOW"
    "$program" check "${arguments[@]}" -- "$folder/report" 2> "$folder/check.log" || code=$?
    cat "$folder/check.log" >&2
    code=$(documented "$code")
  fi
  write_body "$code" "$folder/$log"
  limited "$folder/body.md" "$most_in_summary" >> "$GITHUB_STEP_SUMMARY"
  output exit-code "$code"
  output summary "$(last_line "$folder/$log")"
  output report "$folder/report"
}

# What people are shown: the judgement, or why there is none; and the comparison of the experiment, as far as there is one.
write_body() {
  local code=$1 log=$2
  {
    if [ -f "$folder/check.md" ]; then
      cat "$folder/check.md"
    else
      # Indented text is shown as it is, and nothing in it can end that.
      printf '### Mantissa, %s: no judgement, exit code %s\n\n    %s\n' "$INPUT_NAME" "$code" "$(last_line "$log")"
    fi
    if [ -f "$folder/report/pull-request.md" ]; then
      printf '\n#### The experiment\n\n'
      cat "$folder/report/pull-request.md"
    fi
  } > "$folder/body.md"
}

# ---- comment, finish

# Posts the comment, or updates the one that an earlier run posted. That this cannot be done, as from a fork, fails nothing:
# the summary says the same.
comment() {
  local marker api refused number=${INPUT_PULL_REQUEST:-}
  truth comment "$INPUT_COMMENT" || return 0
  case $number in
    '') echo 'This is no pull request: no comment.'; return 0 ;;
    *[!0-9]*) fail 'the number of the pull request is none' ;;
  esac
  set_folder
  mkdir -p "$folder"
  marker="<!-- mantissa check: $INPUT_NAME -->"
  if [ -z "${INPUT_EXIT_CODE:-}" ] || [ ! -f "$folder/body.md" ]; then
    printf '### Mantissa, %s: no judgement\n\nThe check did not run; the log says why.\n' "$INPUT_NAME" > "$folder/body.md"
  fi
  {
    printf '%s\n' "$marker"
    limited "$folder/body.md" "$most_in_comment"
    printf '\n[Log and artifacts](%s/%s/actions/runs/%s)\n' "$GITHUB_SERVER_URL" "$GITHUB_REPOSITORY" "$GITHUB_RUN_ID"
  } > "$folder/comment.md"
  export GH_HOST=${GITHUB_SERVER_URL#*://} GH_ENTERPRISE_TOKEN=${GH_TOKEN:-}
  api=repos/$GITHUB_REPOSITORY/issues
  if ! refused=$(post_or_update "$marker" "$api" "$number" 2>&1); then
    case $refused in
      *'HTTP 403'*) printf '::notice title=mantissa::no permission to comment, as in a pull request from a fork; the summary of this run says the same\n' ;;
      *) printf '::warning title=mantissa::the comment could not be posted; the summary of this run says the same\n%s\n' "$refused" ;;
    esac
  fi
}

# Only a comment of a bot is updated: anybody can write the marker, and would then stand behind what the comment says.
post_or_update() {
  local marker=$1 api=$2 number=$3 known
  known=$(gh api --paginate "$api/$number/comments?per_page=100" \
    --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$marker\"))) | .id") || return 1
  known=${known%%$'\n'*}
  if [ -n "$known" ]; then
    gh api --method PATCH "$api/comments/$known" --field "body=@$folder/comment.md" --silent
  else
    gh api --method POST "$api/$number/comments" --field "body=@$folder/comment.md" --silent
  fi
}

# Ends with the exit code of the run or the check; of neither, when a step before failed.
finish() {
  local code=${INPUT_EXIT_CODE:-${INPUT_RUN_EXIT_CODE:-}}
  printf 'mantissa: exit code %s\n' "${code:-3: a step before the check failed}"
  exit "${code:-3}"
}

case ${1:-} in
  key | build | run | check | comment | finish) "$1" ;;
  *) fail 'expected key, build, run, check, comment or finish' ;;
esac
