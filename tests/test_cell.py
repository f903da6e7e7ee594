"""CellSpec: what it refuses, and that the presets are what the papers describe."""

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest
from lstm_rs.cell import CellSpec
from oracle import EVERY


def test_presets_are_as_published():
    flags = {
        "hochreiter_1997": {"forget_gate": False},
        "gers_1999": {},
        "peephole_lstm": {"peephole": True},
    }
    for name, parts in flags.items():
        assert getattr(CellSpec, name)() == CellSpec(**parts)
    changed = {
        "V": {},
        "NIG": {"input_gate": False},
        "NFG": {"forget_gate": False},
        "NOG": {"output_gate": False},
        "NIAF": {"input_activation": "identity"},
        "NOAF": {"output_activation": "identity"},
        "NP": {"peephole": False},
        "CIFG": {"coupled": True},
    }
    for name, parts in changed.items():
        assert CellSpec.greff(name) == CellSpec(**({"peephole": True} | parts))
    with pytest.raises(ValueError, match=r"'FGR'.*not there yet; there are V, NIG, NFG"):
        CellSpec.greff("FGR")
    for name in ("nig", "", None, ["V"]):
        with pytest.raises(ValueError, match=r"expected 'V', 'NIG'.* or 'CIFG', got"):
            CellSpec.greff(name)


@pytest.mark.parametrize("flag", ["input_gate", "forget_gate", "output_gate", "coupled", "peephole"])
@pytest.mark.parametrize("value", [1, 0, None, "yes", np.True_])
def test_a_flag_must_be_a_bool(flag, value):
    with pytest.raises(TypeError, match=f"{flag} must be a bool, got .* of type {type(value).__name__}"):
        CellSpec(**{flag: value})


PLACES = ["input_activation", "output_activation", "gate_activation"]


@pytest.mark.parametrize("field", PLACES)
def test_an_activation_must_be_there(field):
    for value in ("Relu", "Tanh", None, np.array(["tanh"]), (), ("gelu", 1.0), ["relu"], 1):
        with pytest.raises(ValueError, match=rf"^cell: {field} must be 'sigmoid'|^cell: {field} must be 'affine'"):
            CellSpec(**{field: value})


@pytest.mark.parametrize("field", PLACES)
def test_an_activation_has_its_parameters(field):
    assert getattr(CellSpec(**{field: ("relu",)}), field) == "relu"
    assert getattr(CellSpec(**{field: ("leaky_relu", 0.01)}), field) == "leaky_relu"
    assert getattr(CellSpec(**{field: ("hard_sigmoid", 1)}), field) == ("hard_sigmoid", 1.0, 0.5)
    assert getattr(CellSpec(**{field: ("elu", np.float32(0.5))}), field) == ("elu", 0.5)
    for value, error, sentence in [
        (("relu", 1.0), ValueError, f"cell: {field} 'relu' takes no parameters, got ('relu', 1.0)"),
        (("elu", 1.0, 2.0), ValueError, f"cell: {field} 'elu' takes alpha, got ('elu', 1.0, 2.0)"),
        (("affine", 1), ValueError,
         f"cell: {field} 'affine' needs alpha and beta, as in ('affine', 1.0, 0.5), got ('affine', 1)"),
        (("elu", "1.0x"), TypeError, f"cell: {field} 'elu' must be a number, got '1.0x' of type str"),
        (("elu", True), TypeError, f"cell: {field} 'elu' must be a number, got True"),
        (("elu", np.nan), ValueError, f"cell: {field} 'elu' must be finite, got nan"),
        (("elu", 10**400), ValueError, f"cell: {field} 'elu' must be finite, got {10**400}"),
    ]:  # fmt: skip
        with pytest.raises(error) as caught:
            CellSpec(**{field: value})
        assert str(caught.value) == sentence


@pytest.mark.parametrize("field", ["gate_clip", "cell_clip"])
def test_a_clip_is_a_positive_number(field):
    assert getattr(CellSpec(**{field: 3}), field) == 3.0
    for value in (0.0, -1.0, np.inf, np.nan, 10**400):
        with pytest.raises(ValueError, match=f"cell: {field} must be "):
            CellSpec(**{field: value})
    for value in ("3 m", False, (1.0, 2.0)):
        with pytest.raises(TypeError, match=f"cell: {field} must be a number, got"):
            CellSpec(**{field: value})


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"coupled": True, "input_gate": False}, "coupled=True needs the input gate"),
        ({"coupled": True, "forget_gate": False}, "coupled=True replaces the forget gate"),
        (
            {"peephole": True, "input_gate": False, "forget_gate": False, "output_gate": False},
            "peephole=True needs a gate to look from",
        ),
    ],
)
def test_contradictions_are_refused(parts, match):
    with pytest.raises(ValueError, match=re.escape(match)):
        CellSpec(**parts)


@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_gates_and_peepholes_stand_in_order(cell):
    assert "".join(cell.gates) in {"ifgo", "ifg", "igo", "ig", "fgo", "fg", "go", "g"}
    assert ("i" in cell.gates, "o" in cell.gates) == (cell.input_gate, cell.output_gate)
    assert ("f" in cell.gates) == (cell.forget_gate and not cell.coupled)
    assert cell.peepholes == (tuple(gate for gate in cell.gates if gate != "g") if cell.peephole else ())


@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
def test_a_cell_is_a_value(cell):
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), eval(repr(cell))):
        assert twin == cell and hash(twin) == hash(cell)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.peephole = True
