"""The check that every crate has a reason can fail."""

from check_dependencies import PAGE, check, reasons


def test_the_page_has_reasons():
    known = reasons(PAGE.read_text(encoding="utf-8"))
    assert {"ndarray", "numpy", "pyo3"} < known.keys()


def test_a_crate_without_a_reason_and_a_reason_without_a_crate_are_named():
    crates = [(0, "lstm-rs v1.0.0"), (1, "ndarray v1.0.0"), (2, "stowaway v1.0.0")]
    wrong = check(crates, {"ndarray": "arrays", "gone": "was needed once"})
    assert [line.split(":")[0] for line in wrong] == ["stowaway", "gone"]
    assert check(crates, {"ndarray": "arrays", "stowaway": "comes with it"}) == []
