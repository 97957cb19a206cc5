"""The Merkle tree of a commit follows RFC 9162: structure, proofs, and proofs that must fail."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from stratum.frozen import replace
from stratum.tree.blocks import lines_of
from stratum.tree.digest import InclusionProof, inclusion_proof, merkle_summary, metadata_hash


def rfc9162(lines: list[bytes]) -> tuple[bytes, int]:
    """(root, depth) by the recursive definition of section 2.1.1."""
    if len(lines) == 1:
        return blake3(b"\x00" + lines[0]).digest(), 0
    split = 1 << ((len(lines) - 1).bit_length() - 1)
    (left, left_depth), (right, right_depth) = rfc9162(lines[:split]), rfc9162(lines[split:])
    return blake3(b"\x01" + left + right).digest(), 1 + max(left_depth, right_depth)


def dump_of(count: int) -> bytes:
    return b"".join(b"/line %d\n" % number for number in range(count))


@pytest.mark.parametrize("count", [*range(1, 20), 31, 32, 33, 1000])
def test_root_and_depth(count: int) -> None:
    dump = dump_of(count)
    root, depth = rfc9162(list(lines_of(dump)))
    summary = merkle_summary(dump)
    assert (summary.root, summary.leaf_count, summary.tree_depth) == (root.hex(), count, depth)


def test_metadata_hash_is_blake3_of_the_bytes() -> None:
    assert metadata_hash(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def holds(proof: InclusionProof) -> bool:
    value = blake3(b"\x00" + proof.line).digest()
    for side, sibling in proof.path:
        value = blake3(b"\x01" + (sibling + value if side == "left" else value + sibling)).digest()
    return value.hex() == proof.root


@given(st.integers(1, 70), st.data())
def test_a_proof_holds_for_its_line_only(count: int, data: st.DataObject) -> None:
    dump = dump_of(count)
    index = data.draw(st.integers(0, count - 1))
    proof = inclusion_proof(dump, index)
    assert proof.root == merkle_summary(dump).root
    assert holds(proof)
    assert not holds(replace(proof, line=b"/other"))
    assert not holds(replace(proof, root="00" * 32))
    if proof.path:
        (side, sibling), *rest = proof.path
        flipped = bytes((sibling[0] ^ 1,)) + sibling[1:]
        assert not holds(replace(proof, path=((side, flipped), *rest)))
        assert not holds(replace(proof, path=proof.path[1:]))
