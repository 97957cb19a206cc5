"""C4 IDs: published ones, what is rejected, the order, and the ID of a set."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.c4 import ids
from stratum.errors import UsageError

EMPTY = "c459dsjfscH38cYeXXYogktxf4Cd9ibshE3BHUo6a58hBXmRQdZrAkZzsWcbWtDg5oQstpDuni4Hirj75GEmTc1sFT"
LARGEST = "c467rpwLCuS5DGA8KGZXKsVQ7dnPb9goRLoKfgGbLfQg9WoLUgNY77E2jT11fem3coV9nAkguBACzrU1iyZM4B8roQ"
ASSET = "c43ucjRutKqZSCrW43QGU1uwRZTGoVD7A7kPHKQ1z4X1Ge8mhW4Q1gk48Ld8VFpprQBfUC8JNvHYVgq453hCFrgf9D"
WORDS = {
    "alfa": "c43zYcLni5LF9rR4Lg4B8h3Jp8SBwjcnyyeh4bc6gTPHndKuKdjUWx1kJPYhZxYt3zV6tQXpDs2shPsPYjgG81wZM1",
    "bravo": "c42jd8KUQG9DKppN1qt5aWS3PAmdPmNutXyVTb8H123FcuU3shPxpUXsVdcouSALZ4PaDvMYzQSMYCWkb6rop9zhDa",
    "charlie": "c44erLietE8C1iKmQ3y4ENqA9g82Exdkoxox3KEHops2ux5MTsuMjfbFRvUPsPdi9Pxc3C2MRvLxWT8eFw5XKbRQGw",
    "delta": "c42Sv2Wi2Qo8AKbJKnUP6YTSdz8pt9aDaf2Ltx44HF1UDdXANM8Ltk6qEzpncvmVbw6FZxgBumw9Eo2jtGyaQ5gDSC",
    "echo": "c41bviGCyTM2stoMYVTVKgBkfC6SitoLRFinp77BcmN9awdaeC9cxPy4zyFQBhmTvRzChawbECK1KBRnw3KnagA5be",
    "foxtrot": "c427CsZdfUAHyQBS3hxDFrL9NqgKeRuKkuSkxuYTm26XG7AKAWCjViDuMhHaMmQBkvuHnsxojetbQU1DdxHjzyQw8r",
    "golf": "c41yLiwAPdsjiBAAw8AFwQGG3cAWnNbDio21NtHE8yD1Fh5irRE4FsccZvm1WdJ4FNHtR1kt5kev7wERsgYomaQbfs",
    "hotel": "c44nNyaFuVbt5MCfo2PYWHpwMkBpYTbt14C6TuoLCYH5RLvAFLngER3nqHfXC2GuttcoDxGBi3pY1j3pUF2W3rZD8N",
    "india": "c41nJ6CvPN7m7UkUA3oS2yjXYNSZ7WayxEQXWPae6wFkWwW8WChQWTu61bSeuCERu78BDK1LUEny1qHZnye3oU7DtY",
}
SET_OF_WORDS = "c435RzTWWsjWD1Fi7dxS3idJ7vFgPVR96oE95RfDDT5ue7hRSPENePDjPDJdnV46g7emDzWK8LzJUjGESMG5qzuXqq"


def test_published_ids() -> None:
    assert ids.id_of_bytes(b"") == EMPTY
    assert ids.id_of_bytes(b"This is a pretend asset file, for testing asset id generation.\n") == ASSET
    assert {word: ids.id_of_bytes(word.encode()) for word in WORDS} == WORDS


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "c4" + "1" * 88), (57, "c4" + "1" * 87 + "z"), (58, "c4" + "1" * 86 + "21"), (2**512 - 1, LARGEST)],
)
def test_numbers(number: int, text: str) -> None:
    digest = number.to_bytes(64, "big")
    assert ids.id_of_digest(digest) == text
    assert ids.digest_of(ids.parse(text)) == digest


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=64, max_size=64))
def test_ids_are_their_digests_in_their_order(one: bytes, other: bytes) -> None:
    first, second = ids.id_of_digest(one), ids.id_of_digest(other)
    assert ids.digest_of(ids.parse(first)) == one
    assert (first < second, first == second) == (one < other, one == other)


def test_a_hash_of_pieces() -> None:
    whole = ids.hasher()
    for piece in (b"al", b"", b"fa"):
        whole.update(piece)
    assert ids.id_of_digest(whole.digest()) == WORDS["alfa"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has 0 characters"),
        (ASSET[:-1], "it has 89 characters"),
        (ASSET + "1", "it has 91 characters"),
        (ASSET + "\n", "it has 91 characters"),
        ("C4" + ASSET[2:], "it does not begin with 'c4'"),
        ("c430" + ASSET[4:], "character 4, '0'"),
        (ASSET[:-1] + "l", "character 90, 'l'"),
        (ASSET[:-1] + "\n", "character 90"),
        (ASSET[:5] + "\u0661" + ASSET[6:], "character 6"),
        (LARGEST[:-1] + "R", "over 512 bits"),
        ("c4" + "z" * 88, "over 512 bits"),
    ],
)
def test_what_is_no_id(text: str, why: str) -> None:
    assert not ids.is_id(text)
    with pytest.raises(UsageError) as caught:
        ids.parse(text)
    assert why in caught.value.message


def test_a_digest_of_another_length() -> None:
    with pytest.raises(ValueError, match="64 bytes, not 32"):
        ids.id_of_digest(bytes(32))


def test_the_id_of_a_set() -> None:
    members = [ids.parse(text) for text in WORDS.values()]
    assert ids.tree_id(members) == SET_OF_WORDS
    random.Random(4).shuffle(members)
    assert ids.tree_id(members + members[:3]) == SET_OF_WORDS
    assert ids.tree_id(members[:1]) == members[0]
    with pytest.raises(UsageError, match="empty set"):
        ids.tree_id([])
