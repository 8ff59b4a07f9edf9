"""Every query of the dashboards and alerts asks for what the services export."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from keystile_common.metrics import SECONDS, AuthMetrics, McpMetrics
from tests.chart.release import CHART, program, run

promql = pytest.importorskip("promql_parser", reason="promql-parser is not installed")

REPOSITORY = CHART.parents[1]
RULES = CHART / "rules" / "keystile.yaml"
RULE_TESTS = CHART / "tests" / "rules" / "keystile_test.yaml"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))

# What Prometheus itself adds to each sample of a pod.
TARGET_LABELS = {"job", "namespace", "pod", "instance", "service", "container", "endpoint"}


@cache
def _exported() -> dict[str, frozenset[str]]:
    """Each sample's name with its own labels."""
    samples: dict[str, frozenset[str]] = {"up": frozenset()}
    for group in (AuthMetrics(CollectorRegistry(), "0"), McpMetrics(CollectorRegistry(), "0")):
        # build_info is held by nobody, so ask the registry as well.
        held = [*_metrics_of(group), *group.registry._collector_to_names]
        for metric in held:
            if not isinstance(metric, MetricWrapperBase):
                continue
            (family,) = metric.describe()
            labels = frozenset(metric._labelnames)
            suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
            for suffix in suffixes:
                extra = {"le"} if suffix == "_bucket" else set()
                samples[family.name + suffix] = labels | extra
    return samples


def _metrics_of(group: object) -> Iterator[object]:
    for value in vars(group).values():
        if isinstance(value, MetricWrapperBase):
            yield value
        elif type(value).__module__ == "keystile_common.metrics":
            yield from _metrics_of(value)


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _panel_queries() -> Iterator[tuple[str, str, str]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                # What Grafana puts in before it asks.
                query = target["expr"].replace("$__rate_interval", "5m")
                yield f"{path.stem}: {panel['title']}", query, target["legendFormat"]


QUERIES = [*_panel_queries(), *((rule["alert"], rule["expr"], "") for rule in _rules())]


def _selectors(query: str) -> list[Any]:
    found = []

    def visit(node: Any) -> None:
        if isinstance(node, promql.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql.VectorSelector) and not any(node is each for each in found):
            found.append(node)

    promql.walk(promql.parse(query), visit)
    return found


def _grouping(query: str) -> set[str]:
    labels: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql.walk(promql.parse(query), visit)
    return labels


@pytest.mark.parametrize(("where", "query", "legend"), QUERIES, ids=[f"{w}-{i}" for i, (w, _, _) in enumerate(QUERIES)])
def test_a_query_asks_for_metrics_and_labels_that_are_exported(where: str, query: str, legend: str) -> None:
    selectors = _selectors(query)
    assert selectors
    for selector in selectors:
        assert selector.name in _exported(), where
        own = _exported()[selector.name]
        for matcher in selector.matchers.matchers:
            assert matcher.name in own | TARGET_LABELS, f"{where}: {selector.name} has no label {matcher.name}"
    known = set().union(*(_exported()[selector.name] for selector in selectors)) | TARGET_LABELS
    assert _grouping(query) <= known
    assert set(re.findall(r"{{(\w+)}}", legend)) <= _grouping(query)


@pytest.mark.parametrize(("where", "query", "legend"), QUERIES, ids=[f"{w}-{i}" for i, (w, _, _) in enumerate(QUERIES)])
def test_a_label_is_compared_with_values_that_the_services_give_it(where: str, query: str, legend: str) -> None:
    del legend
    source = "".join(path.read_text() for path in sorted((REPOSITORY / "services").rglob("*.py")))
    for selector in _selectors(query):
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET_LABELS:
                continue
            for value in matcher.value.split("|"):
                if matcher.name == "le":
                    assert float(value) in SECONDS, where
                else:
                    assert f'"{value}"' in source, f"{where}: no {matcher.name} is ever {value}"


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {selector.name for _, query, _ in _panel_queries() for selector in _selectors(query)}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    exported = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _exported()}
    assert exported <= families


def test_dashboards_have_names_of_their_own_and_panels_that_explain_themselves() -> None:
    dashboards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({each["uid"] for each in dashboards}) == len(dashboards)
    for dashboard in dashboards:
        assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "namespace", "job"}
        assert all(panel["description"] for panel in dashboard["panels"])


def test_promtool_takes_the_rules() -> None:
    answer = run(program("promtool"), "check", "rules", RULES)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_alerts_fire_when_they_should_and_only_then() -> None:
    answer = run(program("promtool"), "test", "rules", RULE_TESTS)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    tested = {
        check["alertname"]
        for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for check in test["alert_rule_test"]
        if check.get("exp_alerts")
    }
    names = {rule["alert"] for rule in _rules()}
    assert tested == names
    for rule in _rules():
        assert rule["annotations"]["runbook_url"] == f"RUNBOOKS/{rule['alert']}.md"
    pages = {path.stem for path in Path(REPOSITORY / "docs" / "runbooks").glob("Keystile*.md")}
    assert pages == names
