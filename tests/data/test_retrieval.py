"""Retrievers: BM25 against its formula, draws that depend on nothing but seed and name."""

import math

from sdft_ray.data.retrieval import Bm25, Query, RandomDraw

DOCUMENTS = ["the port of the billing host", "the colour of the sky", "a sky without a port", "天空是蓝色的"]
K1, B = 1.5, 0.75


def bm25(query: list[str], document: list[str], documents: list[list[str]]) -> float:
    """Lucene's form (Kamphuis et al. 2020)."""
    mean = sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in query:
        containing = sum(word in other for other in documents)
        idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        count = document.count(word)
        total += idf * count / (count + K1 * (1 - B + B * len(document) / mean))
    return total


def test_bm25_is_its_closed_form() -> None:
    words = [document.split() for document in DOCUMENTS[:3]]
    query = "Which PORT, which sky, which port?"
    [hits] = Bm25(DOCUMENTS[:3], seed=0).search([Query("q", query)], 3)
    expected = {place: bm25(["which", "port", "sky"], document, words) for place, document in enumerate(words)}
    assert [hit.place for hit in hits] == sorted(expected, key=lambda place: -expected[place])
    for hit in hits:
        assert math.isclose(hit.score, expected[hit.place], rel_tol=1e-5)


def test_bm25_finds_words_of_scripts_without_spaces() -> None:
    [[hit]] = Bm25(DOCUMENTS, seed=0).search([Query("q", "天是什么颜色")], 1)
    assert hit.place == 3 and hit.score > 0


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    index = Bm25(["blue sky"] * 50 + ["red sky"] + ["blue sky"] * 50, seed=0)
    [hits] = index.search([Query("q", "red sky")], 4)
    assert [hit.place for hit in hits] == [50, 0, 1, 2]


def test_a_document_that_shares_no_word_is_not_found() -> None:
    index = Bm25([*DOCUMENTS, ""], seed=0)
    queries = [Query("strange", "nothing shared"), Query("empty", "?!"), Query("partly", "a billing question")]
    strange, empty, partly = index.search(queries, 3)
    assert strange == empty == []
    assert sorted(hit.place for hit in partly) == [0, 2] and all(hit.score > 0 for hit in partly)


def test_words_in_over_half_of_many_documents_are_passed_over() -> None:
    documents = [f"the host {number} of {'a' if number % 3 else 'b'} row" for number in range(2000)]
    index = Bm25(documents, seed=0)
    [hits] = index.search([Query("q", "the host 77 of row a")], 2)
    assert [hit.place for hit in hits] == [77], "no word but the number tells its neighbours apart"
    [common] = index.search([Query("q", "the unknown host")], 2)
    assert len(common) == 2 and all(hit.score > 0 for hit in common), "it has no other words"
    [usual] = Bm25(documents[:900], seed=0).search([Query("q", "the host of row a")], 1)
    assert documents[usual[0].place].endswith("of a row") and usual[0].score > 0


def test_a_retriever_gives_all_there_are_where_more_are_asked_for() -> None:
    for retriever in (Bm25(DOCUMENTS, seed=0), RandomDraw(DOCUMENTS, seed=0)):
        [hits] = retriever.search([Query("q", "the sky, a port, 天")], 99)
        assert sorted(hit.place for hit in hits) == [0, 1, 2, 3]


def test_a_draw_depends_on_seed_and_name_alone() -> None:
    documents = [str(number) for number in range(1000)]
    queries = [Query(f"row-{number}", "") for number in range(40)]
    drawn = list(RandomDraw(documents, seed=1).search(queries, 3))
    again = list(RandomDraw(documents, seed=1).search(queries[::-1], 3))[::-1]
    assert drawn == again
    assert drawn != list(RandomDraw(documents, seed=2).search(queries, 3))
    assert len({hit.place for hits in drawn for hit in hits}) > 90, "rows draw independently of each other"
    assert all(len({hit.place for hit in hits}) == 3 for hits in drawn)
