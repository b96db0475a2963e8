"""What is changed in a user's prototxts, and that nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_caffe.job.prototxts.nets import Layer, NetState, source_layers
from gossip_caffe.job.prototxts.prototxt import Document
from gossip_caffe.job.prototxts.rewriting import net_for_peer, quoted, ring_layer, solver_for_peer

NET = """# head
name : 'n';  # odd
layer { name:"d\\"x" type:"Data" top:"a b" top:"é"  # source
  data_param { source: "s" } };
layer{name:"ip"bottom:"a b"top:"ip"type:"InnerProduct" param < lr_mult:1., decay_mult: 0x1 > }
# tail"""
SOLVER = """# mine
net: "n.prototxt"   # the net
base_lr: 1e-2; display: 20; momentum: .9  # keep
test_iter: 3 test_iter: 4 test_interval: 10
test_state { stage: "t" } train_state { stage: "s" }
snapshot: 10, snapshot_prefix: "x" 'y'
weights: "a.caffemodel"
solver_mode: GPU random_seed: 3 max_iter: 100 average_loss: 5
debug_info: true
type: "Adam" # last"""


def sources_of(document: Document) -> list[Layer]:
    return source_layers(document, document.root, NetState("TRAIN"))


def source_of(document: Document) -> tuple[int, int, str]:
    (source,) = sources_of(document)
    return source.place.start, source.place.end, ring_layer(source, 0)


def test_only_the_data_layer_of_a_net_is_replaced() -> None:
    document = Document(NET, "net")
    start, end, replacement = source_of(document)
    rewritten = net_for_peer(document, sources_of(document))
    assert NET[start:end].startswith('layer { name:"d')
    assert NET[start:end].endswith("};")
    assert rewritten == NET[:start] + replacement + NET[end:]


def test_the_ring_layer_has_the_name_and_the_tops_of_the_data_layer() -> None:
    document = Document(NET, "net")
    layer = Document(source_of(document)[2], "ring").root.messages("layer")[0]
    assert (layer.text("name"), layer.texts("top"), layer.text("type")) == ('d"x', ["a b", "é"], "Python")
    python = layer.message("python_param")
    assert python is not None
    assert (python.text("module"), python.text("layer")) == (
        "gossip_caffe.solver.engines.source_layer",
        "BatchSource",
    )


def test_each_of_several_source_layers_gets_its_own_tops_of_the_ring() -> None:
    text = """layer { name: "a" type: "Data" top: "x" top: "y" }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" }
layer { name: "b" type: "HDF5Data" top: "z" }"""
    document = Document(text, "net")
    rewritten = Document(net_for_peer(document, sources_of(document)), "net").root.messages("layer")
    assert [layer.text("type") for layer in rewritten] == ["Python", "InnerProduct", "Python"]
    params = [layer.message("python_param") for layer in rewritten]
    assert [param.text("param_str") for param in params if param is not None] == ["0:2", "2:1"]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8", min_codepoint=32)))
def test_quoted_text_reads_as_itself(text: str) -> None:
    assert Document(f"name: {quoted(text)}", "x").root.text("name") == text


def test_a_peers_solver_keeps_how_it_learns_and_loses_what_is_not_its_business() -> None:
    rewritten = solver_for_peer(Document(SOLVER, "solver"), NET)
    expected = (
        "# mine\n   # the net\nbase_lr: 1e-2;  momentum: .9  # keep\n  \n"
        ' train_state { stage: "s" }\n \n\n  max_iter: 100 average_loss: 5\ndebug_info: true\n'
        f'type: "Adam" # last\ntest_initialization: false\nsnapshot_after_train: false\n'
        f"train_net_param {{\n{NET}\n}}\n"
    )
    assert rewritten == expected
    inlined = Document(rewritten, "peer").root.message("train_net_param")
    assert inlined is not None
    assert len(inlined.fields) == len(Document(NET, "net").root.fields)


@pytest.mark.parametrize("ending", ["", "\n", "  # comment", " ;"])
def test_a_text_may_end_as_it_likes(ending: str) -> None:
    rewritten = solver_for_peer(Document(f'net: "n" base_lr: 1{ending}', "solver"), f'name: "n"{ending}')
    assert [entry.name for entry in Document(rewritten, "peer").root.fields][-1] == "train_net_param"
