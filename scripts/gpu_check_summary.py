#!/usr/bin/env python3
"""What `gpu-check.sh run OUT` left behind, cut off or not: a Markdown section for LOG.md on stdout, and files for
reports/reference. Called by `gpu-check.sh summary`.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import tarfile
import zlib

# Files of an experiment that are kept, none of them larger than this.
KEPT = re.compile(r"(results\.json|summary\.md|figures/[a-z0-9-]+\.png)")
LARGEST = 1 << 20


def fail(message):
    sys.exit(f"gpu-check: {message}")


def members(out):
    """What is in files.tar.gz, name -> bytes; as far as it can be read, if the copy was cut off."""
    found = {}
    try:
        with tarfile.open(out / "files.tar.gz") as archive:
            for member in archive:
                if member.isfile() and member.size <= 64 << 20:
                    found[os.path.normpath(member.name)] = archive.extractfile(member).read()
    except FileNotFoundError:
        print(f"gpu-check: there is no {out / 'files.tar.gz'}", file=sys.stderr)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        print(f"gpu-check: {out / 'files.tar.gz'} ends early: {error}", file=sys.stderr)
    return found


def text_of(files, name):
    return files.get(name, b"").decode("utf-8", "replace")


def experiments(files):
    """Step -> (results, files of the experiment), for each whose results can be read."""
    found = {}
    for name, content in files.items():
        parts = name.split("/")
        if len(parts) != 3 or parts[0] != "results" or parts[2] != "results.json" or parts[1] == "sanitizer":
            continue
        try:
            results = json.loads(content)
        except ValueError as error:
            print(f"gpu-check: {name}: {error}", file=sys.stderr)
            continue
        start = f"results/{parts[1]}/"
        found[parts[1]] = results, {n[len(start):]: c for n, c in files.items() if n.startswith(start)}
    return found


def comparison(results, files):
    """The table of the experiment's own summary; without one, what is in."""
    section = re.search(r"^## Comparison\n\n(.*?)\n\n", text_of(files, "summary.md") + "\n\n", re.M | re.S)
    if section:
        return section[1]
    variants = results.get("variants", [])
    done = ", ".join(f"{variant.get('name')} {len(variant.get('runs', []))}" for variant in variants)
    return f"Cut off before its report was written. Runs that are in: {done or 'none'}."


def gpu_of(status, found):
    for results, _ in found.values():
        name = results.get("environment", {}).get("device_name")
        if name:
            return name
    line = re.search(r"^- GPU: ([^,\n]+)", status, re.M)
    return line[1] if line and line[1] != "unknown" else "unknown GPU"


def section(status, files, found):
    """The lines for LOG.md."""
    title = re.search(r"^# (.*)$", status, re.M)
    facts = re.findall(r"^- (?:GPU|started|PyTorch): .*$", status, re.M)
    table = re.findall(r"^\|.*$", status, re.M)
    lines = [f"## {title[1] if title else 'GPU check'}", "", *facts, "", *table]
    for name, (results, own) in sorted(found.items()):
        lines += ["", f"### {results.get('experiment', name)}", "", comparison(results, own)]
    for name in ["peers-mlp", "peers-resnet", "peers-compiled"]:
        rows = re.findall(r"^\|.*$", text_of(files, f"{name}.txt"), re.M)
        if len(rows) > 2:
            lines += ["", f"### {name}: PyTorch ÷ ours, above 1 ours is faster", "", *rows]
    return "\n".join(lines) + "\n"


def keep(folder, files, found, log):
    """Writes the files for reports/reference; returns their names."""
    kept = {"gpu-check.md": log.encode()}
    for name in ["machine", "doctor", "tests"]:
        if files.get(f"{name}.txt"):
            kept[f"{name}.txt"] = files[f"{name}.txt"]
    for name, (results, own) in found.items():
        for path, content in own.items():
            if KEPT.fullmatch(path) and len(content) <= LARGEST:
                kept[f"{name}/{path}"] = content
        if "summary.md" not in own:
            print(f"gpu-check: {folder / name} has no report yet: mantissa report {folder / name}", file=sys.stderr)
    for path, content in kept.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(content)
        part.replace(target)
    return sorted(kept)


def main():
    parser = argparse.ArgumentParser(prog="gpu-check.sh summary", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="what run left behind")
    parser.add_argument("--into", type=pathlib.Path, metavar="FOLDER", help="where the files go (reports/reference)",
                        default=pathlib.Path(__file__).resolve().parent.parent / "reports" / "reference")
    arguments = parser.parse_args()
    if not arguments.out.is_dir():
        parser.error(f"{arguments.out} is no folder")
    files = members(arguments.out)
    status = arguments.out / "status.md"
    status = status.read_text("utf-8", "replace") if status.is_file() else text_of(files, "status.md")
    if not status and not files:
        fail(f"{arguments.out} holds neither status.md nor files.tar.gz")
    found = experiments(files)
    log = section(status, files, found)
    slug = re.sub(r"[^a-z0-9]+", "-", gpu_of(status, found).lower()).strip("-") or "unknown-gpu"
    kept = keep(arguments.into / slug, files, found, log)
    print(log)
    print(f"gpu-check: {len(kept)} files in {arguments.into / slug}", file=sys.stderr)


if __name__ == "__main__":
    main()
