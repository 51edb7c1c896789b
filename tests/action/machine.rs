//! A machine of GitHub's, as far as `action.yml` needs one.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use mantissa::store;
use yaml_rust2::{Yaml, YamlLoader};

/// A stand-in for `gh api`: comments are files in $COMMENTS, an id each. With $REFUSED it answers as GitHub does to a token
/// without permission. jq is the language of `gh api --jq`.
const GH: &str = r#"#!/usr/bin/env bash
set -euo pipefail
echo "$*" >> "$COMMENTS.calls"
if [ -n "${REFUSED:-}" ]; then echo "gh: $REFUSED" >&2; exit 1; fi
[ "$1" = api ]; shift
method=GET field= filter= path=
while [ $# -gt 0 ]; do
  case $1 in
    --paginate | --silent) ;;
    --method) method=$2; shift ;;
    --field) field=$2; shift ;;
    --jq) filter=$2; shift ;;
    *) path=$1 ;;
  esac
  shift
done
body=${field#body=@}
case "$method $path" in
  'GET repos/me/project/issues/7/comments?per_page=100')
    for file in "$COMMENTS"/*; do
      [ -f "$file" ] || continue
      jq -Rs --argjson id "$(basename "$file")" '{id: $id, user: {type: (if $id < 10 then "User" else "Bot" end)}, body: .}' "$file"
    done | jq -s . | jq -r "$filter" ;;
  'POST repos/me/project/issues/7/comments') cp "$body" "$COMMENTS/$((10 + $(find "$COMMENTS" -type f | wc -l)))" ;;
  'PATCH repos/me/project/issues/comments/'*) cp "$body" "$COMMENTS/${path##*/}" ;;
  *) echo "gh: Not Found (HTTP 404)" >&2; exit 1 ;;
esac
"#;

/// A `mantissa` that ends with the code in $EXPERIMENT or $CHECK, and writes what `check` is told to write.
const PROGRAM: &str = r#"#!/usr/bin/env bash
printf '%s\n' "$@" >> "$RUNNER_TEMP/arguments"
if [ "$1" = experiment ]; then
  echo 'mantissa: the experiment is done' >&2
  for argument; do case $argument in --out=*) mkdir -p "${argument#--out=}"; cp "$TABLE" "${argument#--out=}/pull-request.md" ;; esac; done
  exit "${EXPERIMENT:-0}"
fi
echo 'mantissa: 1 failed' >&2
[ "${CHECK:-0}" != kill ] || kill -9 $$
for argument; do case $argument in --write=markdown=*) echo '### Judged' > "${argument#--write=markdown=}" ;; esac; done
exit "${CHECK:-0}"
"#;

/// A machine of GitHub's with a checkout in `work`.
pub(super) struct Machine {
    folder: tempfile::TempDir,
    /// Of every step, beside GitHub's.
    pub(super) environment: Vec<(&'static str, String)>,
    /// Of the pull request; empty where there is none.
    pub(super) number: &'static str,
}

/// What a job came to.
#[derive(Debug)]
pub(super) struct Job {
    /// Of the last step that failed; 0 where none did.
    pub(super) code: i32,
    pub(super) outputs: BTreeMap<String, String>,
    pub(super) summary: String,
    pub(super) log: String,
    /// The steps, in order: the last word of what they run, or the action that they use.
    pub(super) steps: Vec<String>,
}

impl Machine {
    /// One for a pull request; none where bash or jq is missing.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    pub(super) fn new() -> Option<Self> {
        for tool in ["bash", "jq"] {
            if Command::new(tool).arg("--version").output().is_err() {
                println!("skipped: there is no {tool}");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let machine = Self { folder, environment: Vec::new(), number: "7" };
        for name in ["work", "temp", "bin", "comments"] {
            std::fs::create_dir(machine.at(name)).unwrap();
        }
        machine.program("bin/gh", GH);
        machine.program("bin/mantissa", PROGRAM);
        store::write(&machine.at("table.md"), b"| variant |\n").unwrap();
        Some(machine)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn program(&self, name: &str, text: &str) {
        let path = self.at(name);
        store::write(&path, text.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        String::from_utf8(store::read(&self.at(name)).unwrap_or_default()).unwrap()
    }

    pub(super) fn comments(&self) -> Vec<String> {
        let files = store::list(&self.at("comments")).unwrap();
        files.iter().map(|file| store::read_to_string(file).unwrap()).collect()
    }

    /// The real program.
    pub(super) fn mantissa(&self, arguments: &[&str]) {
        let program = env!("CARGO_BIN_EXE_mantissa");
        let status = Command::new(program)
            .args(arguments)
            .current_dir(self.at("work"))
            .env("MANTISSA_ISA", "portable")
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    }

    /// Runs the action with these inputs, step by step.
    pub(super) fn run(&self, given: &[(&str, &str)]) -> Job {
        let action = action();
        let mut inputs = BTreeMap::new();
        for (name, input) in entries(&action["inputs"]) {
            let default = input["default"].as_str().unwrap_or_default().to_owned();
            inputs.insert(format!("inputs.{name}"), default);
        }
        for (name, value) in given {
            let input = inputs.get_mut(&format!("inputs.{name}"));
            (*value).clone_into(input.expect("an input of the action"));
        }
        inputs.insert("github.token".to_owned(), "token".to_owned());
        inputs.insert("github.event.pull_request.number".to_owned(), self.number.to_owned());
        inputs.insert("runner.temp".to_owned(), self.at("temp").display().to_string());
        let mut job = Job {
            code: 0,
            outputs: BTreeMap::new(),
            summary: String::new(),
            log: String::new(),
            steps: Vec::new(),
        };
        store::write(&self.at("summary"), b"").unwrap();
        for step in action["runs"]["steps"].as_vec().unwrap() {
            self.step(step, &mut inputs, &mut job);
        }
        for (name, output) in entries(&action["outputs"]) {
            let value = substituted(output["value"].as_str().unwrap(), &inputs);
            job.outputs.insert(name.to_owned(), value);
        }
        job.summary = self.read("summary");
        job
    }

    fn step(&self, step: &Yaml, values: &mut BTreeMap<String, String>, job: &mut Job) {
        let id = step["id"].as_str().unwrap_or("none");
        if !holds(step["if"].as_str().unwrap_or("success()"), values, job.code == 0) {
            return;
        }
        if let Some(action) = step["uses"].as_str() {
            job.steps.push(action.to_owned());
            return;
        }
        let output = self.at("output");
        store::write(&output, b"").unwrap();
        let script = step["run"].as_str().unwrap();
        assert!(!script.contains("${{"), "an input in a script is run: {script}");
        store::write(&self.at("script.sh"), script.as_bytes()).unwrap();
        let folder = substituted(step["working-directory"].as_str().unwrap_or("."), values);
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(self.at("script.sh"));
        command.current_dir(self.at("work").join(folder));
        self.set_environment(&mut command);
        for (name, value) in entries(&step["env"]) {
            command.env(name, substituted(value.as_str().unwrap(), values));
        }
        let ran = command.output().unwrap();
        job.log += &String::from_utf8(ran.stdout).unwrap();
        job.log += &String::from_utf8(ran.stderr).unwrap();
        job.steps.push(script.rsplit(' ').next().unwrap().to_owned());
        if !ran.status.success() {
            job.code = ran.status.code().unwrap();
        }
        for line in self.read("output").lines() {
            let (name, value) = line.split_once('=').unwrap();
            values.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
        }
    }

    fn set_environment(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("GITHUB_ACTION_PATH", env!("CARGO_MANIFEST_DIR"))
            .env("GITHUB_OUTPUT", self.at("output"))
            .env("GITHUB_STEP_SUMMARY", self.at("summary"))
            .env("GITHUB_REPOSITORY", "me/project")
            .env("GITHUB_RUN_ID", "42")
            .env("GITHUB_SERVER_URL", "https://github.com")
            .env("RUNNER_TEMP", self.at("temp"))
            .env("RUNNER_OS", "Linux")
            .env("COMMENTS", self.at("comments"))
            .env("TABLE", self.at("table.md"))
            .env("MANTISSA_ISA", "portable")
            .envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
    }
}

pub(super) fn action() -> Yaml {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("action.yml");
    let text = store::read_to_string(&path).unwrap();
    YamlLoader::load_from_str(&text).unwrap().remove(0)
}

pub(super) fn entries(map: &Yaml) -> impl Iterator<Item = (&str, &Yaml)> {
    let map = map.as_hash().into_iter().flatten();
    map.map(|(name, value)| (name.as_str().unwrap(), value))
}

/// A text with the values of its expressions. An output that no step set is empty; anything else must be known.
fn substituted(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        let (expression, after) = after.split_once("}}").unwrap();
        result += before;
        result += &substituted(&value(expression.trim(), values), values);
        rest = after;
    }
    result + rest
}

fn value(expression: &str, values: &BTreeMap<String, String>) -> String {
    let known = values.get(expression).cloned();
    let is_output = expression.starts_with("steps.") && is_declared_step(expression);
    known.unwrap_or_else(|| {
        assert!(is_output, "no such value: {expression}");
        String::new()
    })
}

/// Whether an expression names the output of a step that there is.
fn is_declared_step(expression: &str) -> bool {
    let id = expression.split('.').nth(1);
    action()["runs"]["steps"].as_vec().unwrap().iter().any(|step| step["id"].as_str() == id)
}

/// Whether the condition of a step holds, in a job where all went well so far or not.
fn holds(condition: &str, values: &BTreeMap<String, String>, fine: bool) -> bool {
    let condition = condition.trim_start_matches("${{").trim_end_matches("}}").trim();
    let is_always = condition.contains("!cancelled()");
    let term = |term: &str| match term {
        "success()" | "!cancelled()" => true,
        _ => {
            let (left, right, equal) = match term.split_once(" == ") {
                Some((left, right)) => (left, right, true),
                None => term.split_once(" != ").map(|(l, r)| (l, r, false)).unwrap(),
            };
            (value(left, values) == right.trim_matches('\'')) == equal
        }
    };
    (fine || is_always) && condition.split(" && ").all(term)
}
