import pytest

from sparselt.runs.devices import cpu_has_bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 vaes\n", True),
        ("Features\t: fp asimd i8mm bf16 dgh\n", True),
        ("model name\t: made of bf16\nflags\t\t: fpu avx2 avx512f avx512_bf16x\n", False),
        ("model name\t: something else\n", None),
    ],
)
def test_bfloat16_instructions_are_read_from_the_flags_of_the_cpu(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_has_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_that_does_not_say_is_not_judged(tmp_path):
    assert cpu_has_bfloat16(tmp_path / "missing") is None
