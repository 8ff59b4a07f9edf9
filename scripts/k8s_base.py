"""Renders the chart to plain manifests with a kustomization, for those who apply them with kubectl alone.

    scripts/k8s_base.py                                       write k8s/base
    scripts/k8s_base.py --check                               fail if k8s/base is not what the chart renders now
    scripts/k8s_base.py --values my.yaml --to deploy/base     the same from values of your own

Needs helm on PATH; nothing is asked of a cluster. Test hooks are left out: kubectl knows no hooks.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CHART = REPOSITORY / "charts" / "keystile"
BASE = REPOSITORY / "k8s" / "base"

HEADER = "# Written by scripts/k8s_base.py from charts/keystile.\n"
# What would tell kubectl users, and helm, that helm looks after these objects.
HELM_LABELS = re.compile(r"^ +(?:app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: \S+)\n", re.MULTILINE)
SOURCE = re.compile(r"^# Source: keystile/templates/([a-z]+)/\S+\n", re.MULTILINE)


def main() -> int:
    """Write or check the manifests; answers the exit status."""
    options = _options()
    files = render(options.values, options.namespace)
    if options.check:
        return _check(options.to, files)
    options.to.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (options.to / name).write_text(text)
    return 0


def render(values: Path, namespace: str) -> dict[str, str]:
    """The manifests that the chart makes of some values.

    Args:
        values: the values file.
        namespace: where the objects go. Settings name it too, so another one is another rendering.

    Returns:
        File name to text: one file a component, and the kustomization that lists them.
    """
    helm = shutil.which("helm")
    if helm is None:
        raise SystemExit("scripts/k8s_base.py: helm is not on PATH")
    command: list[str | Path] = [
        helm,
        "template",
        "keystile",
        CHART,
        "--namespace",
        namespace,
        "--values",
        values,
        "--skip-tests",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SystemExit(answer.stderr.strip())
    components: dict[str, list[str]] = {}
    for document in re.split(r"^---\n", answer.stdout, flags=re.MULTILINE):
        source = SOURCE.search(document)
        if source is not None:
            plain = HELM_LABELS.sub("", SOURCE.sub("", document)).strip()
            components.setdefault(f"{source[1]}.yaml", []).append(plain)
    files = {name: HEADER + "\n---\n".join(documents) + "\n" for name, documents in sorted(components.items())}
    return files | {"kustomization.yaml": _kustomization(namespace, sorted(files))}


def _kustomization(namespace: str, names: list[str]) -> str:
    resources = "".join(f"  - {name}\n" for name in names)
    return (
        f"{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"# The settings name it as well: to have another one, render anew with --namespace.\n"
        f"namespace: {namespace}\nresources:\n{resources}"
    )


def _check(folder: Path, files: dict[str, str]) -> int:
    there = {path.name: path.read_text() for path in folder.glob("*.yaml") if path.name != "values.yaml"}
    if there == files:
        return 0
    different = sorted(name for name in there.keys() | files.keys() if there.get(name) != files.get(name))
    print(f"{', '.join(different)} in {folder}: not up to date, run scripts/k8s_base.py", file=sys.stderr)
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something would change")
    parser.add_argument("--values", type=Path, default=BASE / "values.yaml", help="values of the chart")
    parser.add_argument("--namespace", default="keystile", help="namespace of the objects")
    parser.add_argument("--to", type=Path, default=BASE, help="folder to write to")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
