from dualformer.results.code import code_conflicts, digest, mixed_code

A = {"dualformer/macs.py": "000000000000", "sweeps/run.py": "111111111111"}


def test_files_of_one_alone_are_no_conflict():
    assert code_conflicts([A, {**A, "dualformer/attention/new.py": "2" * 12}, {}]) == []


def test_files_that_two_hold_differently_are_named_in_order():
    other = {"sweeps/run.py": "3" * 12, "dualformer/macs.py": "4" * 12}
    assert code_conflicts([A, A, other]) == ["dualformer/macs.py", "sweeps/run.py"]
    assert code_conflicts([{"a.py": "1"}, {"b.py": "1"}, {"a.py": "2"}]) == ["a.py"]


def test_a_digest_stands_for_names_and_contents_in_any_order():
    assert digest(A) == digest(dict(reversed(A.items()))) and len(digest(A)) == 12
    assert len({digest(A), digest({**A, "a.py": ""}), digest({**A, "sweeps/run.py": "0" * 12}), digest({})}) == 4


def test_rows_whose_files_nobody_kept_are_alike_or_not():
    assert mixed_code(["a", "a"], {}) == mixed_code([], {}) == ""
    assert mixed_code(["b", "a"], {"a": A}) == "mixed code: a, b (of b nobody kept the files)"
    assert mixed_code(["b", "a"], {"a": A, "b": {**A, "new.py": "0"}}) == ""
    assert mixed_code(["b", "a"], {"a": A, "b": {**A, "sweeps/run.py": "0"}}) == (
        "mixed code: sweeps/run.py differs between rows"
    )
