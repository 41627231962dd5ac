"""Policies in words."""

import pytest
from generate.models import tiny_llama

from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.generate.cache import CompressedCache, KVPolicy
from ctxcomp.generate.cache.dense import Dense
from ctxcomp.generate.cache.kivi import Kivi
from ctxcomp.generate.cache.policy import STAGES
from ctxcomp.generate.cache.snapkv import SnapKV
from ctxcomp.generate.cache.tokenwise import ZipCache


def test_stages_compose_in_any_order():
    policy = KVPolicy(codec=Kivi(bits=4), evictor=SnapKV(keep=0.25))
    assert KVPolicy.parse("snapkv(keep=0.25)+kivi4") == policy
    assert KVPolicy.parse(" kivi4 + snapkv( keep = 0.25 ) ") == policy
    assert KVPolicy.parse("none") == KVPolicy(codec=Dense())
    assert KVPolicy.parse("zipcache(bits=8, low=2,salient=0.5)").codec == ZipCache(bits=8, low=2, salient=0.5)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_can_be_named(name):
    for fields in ("", "(keep=0.5)", "(max_tokens=64)"):
        try:
            policy = KVPolicy.parse(name + fields)
        except InputError:
            continue
        assert policy.evictor is not None or not isinstance(policy.codec, Dense) or name == "none"
        return
    pytest.fail(f"no fields make {name}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kivi5", "kivi"),
        ("snapkv(kep=0.5)", "'keep'"),
        ("kivi4(bits=2)", "no field 'bits'"),
        ("kivi4(residual=-1)", "residual"),
        ("kivi4(block=20)", "multiple of 16"),
        ("snapkv(keep=2)", "keep must be in"),
        ("snapkv", "exactly one of keep=F and tokens=N"),
        ("snapkv(tokens=0)", "1 or more"),
        ("snapkv(keep=0.5)+h2o(keep=0.5)", "two evictors"),
        ("kivi4+int8", "two codecs"),
        ("snapkv(keep=0.5)+static8(max_tokens=9)", "never evicts"),
        ("snapkv(keep)", "field=value"),
        ("kivi 4", "cannot read"),
        ("", "cannot read"),
        ("zipcache(salient=2)", "salient"),
        ("gear(rank=-1)", "rank"),
        ("static8(max_tokens=0)", "max_tokens"),
        ("static8", "needs max_tokens"),
    ],
)
def test_errors_say_what_to_do(text, words):
    with pytest.raises(InputError, match=words):
        KVPolicy.parse(text)


def test_an_unknown_name_is_its_own_error():
    with pytest.raises(UnknownMethodError, match="did you mean 'snapkv'"):
        KVPolicy.parse("snapkw(keep=0.5)")


def test_a_policy_is_text_or_a_policy():
    with pytest.raises(InputError, match="KVPolicy, got 4"):
        CompressedCache(tiny_llama().config, 4)
    with pytest.raises(InputError, match="codec must be"):
        KVPolicy(codec="kivi4")
