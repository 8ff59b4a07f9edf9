"""The cluster as kubectl and helm show it."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAMESPACE = "keystile"
_POLL_SECONDS = 0.2


def eventually(what: str, holds: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `holds` answers something true, and answer that."""
    deadline = time.monotonic() + seconds
    while not (seen := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_POLL_SECONDS)
    return seen


@dataclass(frozen=True)
class Kubernetes:
    """A cluster, by its kubeconfig, and the namespace that is meant where none is named."""

    kubeconfig: Path
    node: str
    namespace: str = NAMESPACE

    def run(self, *command: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl, helm or docker to its end; it has to succeed unless `check` is off."""
        answer = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert answer.returncode == 0 or not check, f"{' '.join(command)}: {answer.stdout}{answer.stderr}"
        return answer

    def kubectl(self, *arguments: str, given: str | None = None, namespace: str | None = None) -> str:
        """What kubectl prints."""
        return self.run("kubectl", "--namespace", namespace or self.namespace, *arguments, given=given).stdout

    def objects(self, kind: str, selector: str = "", namespace: str | None = None) -> list[dict[str, Any]]:
        """Objects of a kind, chosen by labels."""
        answer = self.kubectl("get", kind, "--selector", selector, "--output", "json", namespace=namespace)
        return list(json.loads(answer)["items"])

    def pods(self, component: str) -> list[str]:
        """Names of the pods of a component that serve requests: auth, mcp, valkey."""
        selector = f"app.kubernetes.io/component={component}"
        return [
            each["metadata"]["name"]
            for each in self.objects("pods", selector)
            if "deletionTimestamp" not in each["metadata"] and _is_ready(each)
        ]

    def restarts(self, component: str) -> dict[str, int]:
        """Pod to how often its containers were started again, those beside the service as well."""
        pods = self.objects("pods", f"app.kubernetes.io/component={component}")
        statuses = {
            each["metadata"]["name"]: [
                *each["status"].get("initContainerStatuses", ()),
                *each["status"]["containerStatuses"],
            ]
            for each in pods
        }
        return {pod: sum(status["restartCount"] for status in found) for pod, found in statuses.items()}

    def roll_out(self, *workloads: str) -> None:
        """Restart workloads, one pod after the other, and wait for the last."""
        self.kubectl("rollout", "restart", *workloads)
        self.wait_for_rollout(*workloads)

    def wait_for_rollout(self, *workloads: str) -> None:
        """Wait until every pod is of the newest revision, and the others are gone."""
        for each in workloads:
            self.kubectl("rollout", "status", each, "--timeout=180s")
        eventually("pods of old revisions are gone", lambda: not self._leaving_pods(), 120)

    def _leaving_pods(self) -> list[str]:
        return [
            each["metadata"]["name"]
            for each in self.objects("pods", "app.kubernetes.io/instance=keystile")
            if "deletionTimestamp" in each["metadata"]
        ]

    @contextmanager
    def port_forward(self, pod: str, port: int, namespace: str | None = None, at: int | None = None) -> Iterator[int]:
        """A loopback port, `at` or any, that leads to one pod while the block runs."""
        ports = f"{at or ''}:{port}"
        command = ["kubectl", "--namespace", namespace or self.namespace, "port-forward", f"pod/{pod}", ports]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                found = re.search(r"127\.0\.0\.1:(\d+) ->", process.stdout.readline())
                assert found, f"no way to {pod}"
                yield int(found[1])
            finally:
                process.terminate()

    def give_traefik(self, argument: str) -> None:
        """Start Traefik again with an argument more, if it has it not."""
        deployment = json.loads(self.kubectl("get", "deployment", "traefik", "--output", "json", namespace="traefik"))
        if argument in deployment["spec"]["template"]["spec"]["containers"][0]["args"]:
            return
        patch = {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": argument}
        change = ("patch", "deployment", "traefik", "--type=json", "--patch", json.dumps([patch]))
        self.kubectl(*change, namespace="traefik")
        self.kubectl("rollout", "status", "deployment/traefik", "--timeout=120s", namespace="traefik")

    def run_pod(
        self, name: str, program: str, labels: dict[str, str] | None = None, namespace: str | None = None
    ) -> str:
        """Run a Python program in a pod with these labels, to its end; answers what it printed."""
        pod = _restricted_pod(name, program, labels or {})
        self.kubectl("delete", "pod", name, "--ignore-not-found", "--wait", "--grace-period=1", namespace=namespace)
        self.kubectl("apply", "--filename", "-", given=json.dumps(pod), namespace=namespace)
        try:
            eventually(f"pod {name} has ended", lambda: self._phase(name, namespace) in {"Succeeded", "Failed"})
            return self.kubectl("logs", name, namespace=namespace)
        finally:
            self.kubectl("delete", "pod", name, "--wait=false", "--grace-period=1", namespace=namespace)

    def _phase(self, pod: str, namespace: str | None) -> str:
        return self.kubectl("get", "pod", pod, "--output", "jsonpath={.status.phase}", namespace=namespace)

    def kill(self, pod: str, container: str) -> None:
        """End a container's process with SIGKILL, as the kernel would where memory runs out."""
        status = json.loads(self.kubectl("get", "pod", pod, "--output", "json"))["status"]
        statuses = [*status.get("initContainerStatuses", ()), *status["containerStatuses"]]
        (identity,) = [
            each["containerID"].removeprefix("containerd://") for each in statuses if each["name"] == container
        ]
        runtime = ("ctr", "--namespace", "k8s.io", "task", "kill", "--signal", "SIGKILL", identity)
        self.run("docker", "exec", self.node, *runtime)

    def keep_logs(self, folder: Path) -> None:
        """Write the logs of all pods, before and after a restart, and what the cluster says of itself."""
        folder.mkdir(parents=True, exist_ok=True)
        everything = self.run("kubectl", "get", "pods", "--all-namespaces", "--output", "wide", check=False)
        events = self.run("kubectl", "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", check=False)
        (folder / "pods.txt").write_text(everything.stdout)
        (folder / "events.txt").write_text(events.stdout)
        pods = self.run("kubectl", "get", "pods", "--all-namespaces", "--output", "json", check=False).stdout
        for pod in json.loads(pods or '{"items": []}')["items"]:
            self._keep_log(folder, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _keep_log(self, folder: Path, namespace: str, pod: str) -> None:
        command = ("kubectl", "--namespace", namespace, "logs", pod, "--all-containers", "--timestamps")
        (folder / f"{namespace}-{pod}.log").write_text(self.run(*command, check=False).stdout)
        before = self.run(*command, "--previous", check=False)
        if before.returncode == 0:
            (folder / f"{namespace}-{pod}.previous.log").write_text(before.stdout)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _restricted_pod(name: str, program: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "stray",
                    "image": "keystile-mcp:dev",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", program],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
