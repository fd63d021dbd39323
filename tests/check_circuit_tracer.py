"""Does circuit-tracer read what `write_circuit_tracer` writes?

    python -m pytest tests/check_circuit_tracer.py

Run by hand in an environment with circuit-tracer (checked with 0.5.0): it pins an older transformers than the other
tests use, so it is no extra, and this file is not collected with the tests. test_circuit_tracer.py checks the fields.
"""

import json

from circuit_tracer.frontend import graph_models
from test_circuit_tracer import graph, written  # noqa: F401 - a fixture


def test_circuit_tracer_reads_the_file(graph, tmp_path):  # noqa: F811
    content = written(graph, tmp_path)
    read = graph_models.Model.model_validate_json((tmp_path / "graph.json").read_text(encoding="utf-8"))
    assert json.loads(read.model_dump_json()) == content  # nothing is lost or added
    for node, shown in zip(graph.nodes, read.nodes, strict=False):
        if node.kind == "feature":
            made = graph_models.Node.feature_node(int(shown.layer), node.position, node.feature)
            assert (shown.node_id, shown.feature, shown.jsNodeId) == (made.node_id, made.feature, made.jsNodeId)
