import pytest
import torch
from ops import caches
from ops.caches import Case

from ctxcomp.errors import InputError
from ctxcomp_kernels import kv_attention
from ctxcomp_kernels.kv_attention import KVBody, config
from ctxcomp_kernels.kv_quant import quantize_values
from ctxcomp_kernels.testing import assert_close

HALF, BRAIN = torch.float16, torch.bfloat16
CASES = [
    Case(n=64, m=0),
    Case(n=0, m=63, Q=3, G=3, d=96),
    Case(n=0, m=1),
    Case(B=2, H=2, n=96, m=37, key_bits=4, value_bits=2, d=96, Q=2),
    Case(n=64, m=5, key_bits=2, value_bits=8, masked=True),
    Case(n=160, m=9, group=160, G=3, d=128, key_bits=2, value_bits=2),  # steps of 32 within a group of 160 tokens
    Case(n=111, m=16, key_bits=8, value_bits=8, per_token=True, Q=16, masked=True),  # 111: the last step is ragged
    Case(H=2, n=48, m=3, group=16, value_group=16, channels=True),
    Case(n=32, m=5, d=256, G=8, Q=3),  # 24 rows
    Case(n=32, m=20, Q=16, G=5),  # 80 rows: two blocks
    Case(n=64, m=33, dtype=HALF, d=128),
    Case(n=64, m=33, dtype=BRAIN, key_bits=8, masked=True),
]
TOLERANCES = {torch.float32: 2e-6, HALF: 1.5e-3, BRAIN: 8e-3}


def call(case, device, backend):
    body, (tail_k, tail_v) = caches.body(case, device), caches.tail(case, device)
    mask = caches.valid(case, device, case.m, case.H) if case.m else None
    return kv_attention.decode(caches.queries(case, device), body, tail_k, tail_v, tail_valid=mask, backend=backend), (
        body,
        tail_k,
        tail_v,
        mask,
    )


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_against_attention_over_dequantized_tensors(backend, case, device, poison):
    (out, lse), (body, tail_k, tail_v, mask) = call(case, device, backend)
    parts = [] if body is None else [(*body.dequantize(torch.float64), body.valid)]
    parts += [] if tail_k is None else [(tail_k, tail_v, mask)]
    q = caches.queries(case, device)
    expected = caches.oracle(q, parts, causal_tail=tail_k is not None)
    assert_close("out", expected.to(case.dtype), out, TOLERANCES[case.dtype])
    assert lse.shape == q.shape[:3]
    assert lse.dtype == torch.float32


def test_log_sum_exp(device):
    case = Case(B=2, H=2, n=64, m=7, Q=2, masked=True)
    (_, lse), (body, tail_k, _, mask) = call(case, device, "triton")
    keys = torch.cat([body.dequantize(torch.float64)[0], tail_k.double()], 2).repeat_interleave(case.G, 1)
    logits = caches.queries(case, device).double() @ keys.transpose(2, 3) * case.d**-0.5
    seen = (
        torch.cat([body.valid.expand(2, 2, 64), mask], 2).repeat_interleave(case.G, 1).unsqueeze(2).repeat(1, 1, 2, 1)
    )
    seen[:, :, 0, -1] = False
    expected = logits.masked_fill(~seen, -torch.inf).logsumexp(3)
    assert_close("lse", expected.float(), lse, 1e-6)


def test_bodies_of_different_widths_are_one_cache(device):
    salient, rest = Case(n=64, m=9, key_bits=4, value_bits=4), Case(n=96, m=9, key_bits=2, value_bits=2, masked=True)
    q, tail = caches.queries(salient, device), caches.tail(salient, device)
    bodies = [caches.body(case, device) for case in (salient, rest)]
    out, _ = kv_attention.decode(q, bodies, *tail, backend="triton")
    parts = [(*body.dequantize(torch.float64), body.valid) for body in bodies]
    assert_close("two bodies", caches.oracle(q, [*parts, (*tail, None)], True).float(), out, 2e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_what_is_not_valid_may_hold_anything(backend, device):
    case = Case(n=64, m=9, masked=True)
    (expected, _), (body, tail_k, tail_v, mask) = call(case, device, "reference")
    tail_k[~mask], tail_v[~mask] = torch.nan, torch.nan
    body.value_scale[~body.valid] = torch.nan
    args = (caches.queries(case, device), body, tail_k, tail_v)
    out, _ = kv_attention.decode(*args, tail_valid=mask, backend=backend)
    assert_close("out", expected, out, 2e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_query_that_sees_nothing(backend, device):
    case = Case(n=32, m=0, masked=True)
    body = caches.body(case, device)
    body.valid[:] = False
    out, lse = kv_attention.decode(caches.queries(case, device), body, backend=backend)
    assert not out.any()
    assert torch.isneginf(lse).all()


def test_a_number_that_is_none_stays_visible(device):
    case = Case(n=32, m=5)
    tail_k, tail_v = caches.tail(case, device)
    tail_v[..., 3, :] = torch.nan
    out, _ = kv_attention.decode(
        caches.queries(case, device), caches.body(case, device), tail_k, tail_v, backend="triton"
    )
    assert out.isnan().all()


def test_small_value_scales_survive_float16(device):
    # weights of 1/4096 times scales of 1e-3 / 255 would all be 0 in float16 without headroom
    n, d = 4096, 64
    values = torch.linspace(0, 1e-3, d, device=device).repeat(1, 1, n, 1).half()
    keys = torch.zeros(1, 1, n, d, device=device).half()
    case = Case(d=d, dtype=HALF, G=1)
    quantized = (
        *quantize_values(keys, 8, backend="reference"),
        *quantize_values(values, 8, backend="reference"),
    )
    out, _ = kv_attention.decode(caches.queries(case, device), KVBody(*quantized, 8, 8), backend="triton")
    assert_close("flat attention", values[:, :, :1].float(), out.float(), 0.01)


def test_compile_keeps_it_whole():
    case = Case(n=64, m=9, Q=2)
    (expected, _), (body, *tail, _) = call(case, "cpu", "reference")

    def attend(q, tail_k, tail_v):
        return kv_attention.decode(q, body, tail_k, tail_v, backend="reference")[0] * 2

    q = caches.queries(case, "cpu")
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, *tail), expected * 2)
    arguments = ([x for x in vars(body).values() if isinstance(x, torch.Tensor)], [None, None], [4, 4])
    torch.library.opcheck(
        torch.ops.ctxcomp.kv_decode.default,
        (q, *arguments, *tail, None, 0.125, True, "reference"),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("altered", ["scale of the logits", "scale of the values", "last token of the tail", "a split"])
def test_tolerances_notice_what_is_altered(altered, device, monkeypatch):
    case = Case(n=64, m=9)
    (expected, _), _ = call(case, device, "reference")
    call(case, device, "triton")
    from ctxcomp_kernels.kv_attention import launch

    sizes, arguments, decode = launch.split_sizes, launch._body_arguments, launch.decode
    if altered == "scale of the logits":
        monkeypatch.setattr(launch, "decode", lambda q, b, k, v, s, *rest: decode(q, b, k, v, s * 1.001, *rest))
    elif altered == "scale of the values":
        monkeypatch.setattr(launch, "_body_arguments", lambda b, q: arguments(bump(b), q))
    elif altered == "last token of the tail":
        monkeypatch.setattr(launch, "split_sizes", lambda n, *rest: (sizes(n, *rest)[0], 8 if n == 9 else 64))
    else:
        monkeypatch.setattr(launch, "split_sizes", lambda n, *rest: (1, 32))
    (out, _), _ = call(case, device, "triton")
    with pytest.raises(AssertionError, match="relative RMSE"):
        assert_close("out", expected, out, TOLERANCES[torch.float32])


def bump(body):
    return KVBody(**{**vars(body), "value_scale": body.value_scale * 1.0001})


def test_splits_cover_all_tokens_once():
    for tokens in (1, 31, 32, 33, 8192, 131072):
        for heads in (1, 8, 64):
            splits, share = config.split_sizes(tokens, heads, 32, config.pick(torch.device("cpu"))[0], 132)
            assert share % 32 == 0
            assert (splits - 1) * share < tokens <= splits * share


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_asm_names_the_codes_bits(bits, kind):
    from ctxcomp_kernels.kv_attention import codes  # not above: Triton decides at import whether it interprets

    for j in range(8 // bits):
        text = getattr(codes.plane_asm, "fn", codes.plane_asm)(bits, j, kind)
        assert ("shr.u32" in text) == (j > 0)
        assert (f"0x{((1 << bits) - 1) * 0x01010101:08X}" in text) == (bits < 8)


def test_refusals():
    case = Case(n=64, m=5)
    q, body, (tail_k, tail_v) = caches.queries(case, "cpu"), caches.body(case, "cpu"), caches.tail(case, "cpu")
    with pytest.raises(InputError, match="needs a body, a tail or both"):
        kv_attention.decode(q, None)
    with pytest.raises(InputError, match="one of them is missing"):
        kv_attention.decode(q, body, tail_k)
    with pytest.raises(InputError, match="Q <= 16"):
        kv_attention.decode(q.expand(1, 2, 17, 64), body)
    with pytest.raises(InputError, match="multiple of KV heads, got 3 and 2"):
        kv_attention.decode(q.new_zeros(1, 3, 1, 64), caches.body(Case(H=2), "cpu"))
    with pytest.raises(InputError, match="must end in those of the 6 queries"):
        kv_attention.decode(q.new_zeros(1, 2, 6, 64), body, tail_k, tail_v)
    with pytest.raises(InputError, match=r"valid must be bool \[1, 1 or 1, 64\]"):
        kv_attention.decode(q, KVBody(**{**vars(body), "valid": torch.ones(1, 1, 63).bool()}))
    with pytest.raises(InputError, match="key_codes must have shape"):
        kv_attention.decode(q, KVBody(**{**vars(body), "key_bits": 2}))


def test_shapes_the_kernel_does_not_take_run_on_the_reference(device, caplog):
    case = Case(n=24, m=0, group=8)
    (out, _), (body, *_) = call(case, device, "triton")
    expected = caches.oracle(caches.queries(case, device), [(*body.dequantize(torch.float64), None)], False)
    assert_close("out", expected.float(), out, 2e-6)
    assert "key groups of a multiple of 16" in caplog.text
