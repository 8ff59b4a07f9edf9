"""The way to pods by name, past Service and ingress controller."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx2

from tests.e2e.kubernetes import Kubernetes


class NamedPods(httpx2.BaseTransport):
    """Sends each request to another pod than the one before, as if the ingress controller had chosen so.

    Attributes:
        visits: the pod and path of each request so far.
    """

    def __init__(self, ports: dict[str, int]) -> None:
        self.visits: list[tuple[str, str]] = []
        self._pods = itertools.cycle(ports.items())
        self._http = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        pod, port = next(self._pods)
        self.visits.append((pod, request.url.path))
        url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
        # The Host header stays that of the public URL.
        there = httpx2.Request(request.method, url, headers=request.headers, stream=request.stream)
        return self._http.handle_request(there)

    def close(self) -> None:
        """Nothing: one way is shared by a client and a browser, and ends with `named_pods`."""

    def end(self) -> None:
        """Close its connections."""
        self._http.close()


@contextmanager
def named_pods(kubernetes: Kubernetes, component: str, port: int) -> Iterator[NamedPods]:
    """The way to all ready pods of a component, in turn, while the block runs."""
    with ExitStack() as stack:
        # Another server of the release has the component mcp too.
        pods = [pod for pod in kubernetes.pods(component) if pod.startswith(f"keystile-{component}-")]
        ports = {pod: stack.enter_context(kubernetes.port_forward(pod, port)) for pod in pods}
        assert len(ports) >= 2, ports
        way = NamedPods(ports)
        stack.callback(way.end)
        yield way
