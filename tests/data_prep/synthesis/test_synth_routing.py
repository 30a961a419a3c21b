import json

import numpy as np
import pytest

from crossthink.errors import UserError

pytest.importorskip("sklearn")
from data_prep.synthesis.routing import EmbeddingRouter, LexicalRouter, words_of
from data_prep.synthesis.subjects import Subject, load_subjects

pytestmark = pytest.mark.timeout(120)

CHESS = Subject("chess", "other", "chess", ("openings", "endgames with rooks"), ("rook", "bishop", "checkmate", "pawn"))
BREAD = Subject("bread", "other", "bread", ("sourdough", "kneading"), ("flour", "yeast", "oven", "dough"))

PAGES = {
    "astronomy": "The comet passed behind the Sun and through the orbit of Mercury before its tail of ice and dust "
    "could be seen with a small telescope. Astronomers measured the light of the star behind it.",
    "virology": "Influenza viruses carry their genome in eight segments of RNA. After the virion has entered the "
    "host cell the polymerase begins replication; a vaccine must be renewed each year as the virus drifts.",
    "professional_accounting": "The balance sheet lists assets and liabilities. Under LIFO the cost of goods sold "
    "rises with prices, and the auditor looks at inventory, depreciation and retained earnings.",
    "world_religions": "In Theravada Buddhism the monk seeks nirvana. The Buddha taught the dharma, and karma binds "
    "the living to rebirth; pilgrims visit the temple and its sacred relics.",
}
BOILERPLATE = [
    "Accept all cookies. Manage preferences. Sign up for our newsletter. Log in. Forgot your details? Click here to "
    "continue. Share on social. Copyright 2023. All rights reserved. Terms of use. Contact us. Sitemap.",
    "zxcv qwer asdf uiop hjkl bnm",
    "",
]


@pytest.fixture(scope="module")
def router():
    return LexicalRouter(load_subjects(None), 0.08)


def test_pages_reach_their_subject_and_boilerplate_none(router):
    routes = router.route([*PAGES.values(), *BOILERPLATE])
    assert [route.subject for route in routes] == [*PAGES, None, None, None]
    for route in routes[: len(PAGES)]:
        assert 0.08 <= route.score <= 1 and 0 < route.margin <= route.score and route.reason is None
    for route in routes[len(PAGES) :]:
        assert (route.subtopic, route.reason) == (None, "no_subject") and route.score < 0.08


def test_a_route_does_not_depend_on_the_batch(router):
    texts = [*PAGES.values(), *BOILERPLATE]
    together, alone = router.route(texts), [router.route([text])[0] for text in texts]
    assert [(one.subject, one.subtopic) for one in together] == [(one.subject, one.subtopic) for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone])
    assert router.route([]) == []


def test_the_nearest_subtopic_or_the_title():
    router = LexicalRouter([CHESS, BREAD], 0.0)
    texts = ["The rook decides many endgames.", "A bishop takes a pawn.", "Kneading the dough."]
    assert [route.subtopic for route in router.route(texts)] == ["endgames with rooks", "chess", "kneading"]


def test_words_of_no_subject_lower_the_score():
    router = LexicalRouter([CHESS, BREAD], 0.0)
    short, long = router.route(
        ["A bishop and a pawn.", "A bishop and a pawn. " + " ".join(f"other{n}" for n in range(50))]
    )
    assert short.subject == long.subject == "chess" and long.score < short.score / 3


def test_without_any_common_word_there_is_no_subject_even_at_score_0():
    assert LexicalRouter([CHESS, BREAD], 0.0).route(["nothing known"])[0].reason == "no_subject"


def test_one_subject_alone_leads_by_its_score():
    (route,) = LexicalRouter([CHESS], 0.0).route(["checkmate with a rook"])
    assert route.subject == "chess" and route.margin == route.score > 0


def test_only_the_beginning_of_a_page_counts(router):
    page = PAGES["astronomy"] + " x" * 10_000
    assert router.route([page + PAGES["virology"] * 1000]) == router.route([page])


def test_plurals_and_stop_words():
    assert words_of("The Viruses, a galaxy and the GALAXIES: gas, boxes of glass") == [
        *("viruse", "galaxy", "galaxy", "gas", "box", "glass")
    ]


def embed(texts: list[str]) -> np.ndarray:
    """Two directions: bread and chess."""
    return np.array(
        [[float("bread" in text or "dough" in text), float("chess" in text or "rook" in text)] for text in texts]
    )


def test_embedding_router_takes_the_nearest_subtopic_and_knows_when_none_is():
    router = EmbeddingRouter([CHESS, BREAD], 0.5, embed)
    routes = router.route(["a rook", "dough and more bread", "nothing", "a rook in the dough"])
    assert [route.subject for route in routes] == ["chess", "bread", None, "chess"]
    assert routes[0].subtopic == "openings" and routes[1].subtopic == "sourdough"
    assert (routes[0].score, routes[0].margin) == (1.0, 1.0)
    assert routes[2].reason == "no_subject" and routes[2].score == 0
    assert routes[3].score == pytest.approx(0.5**0.5) and routes[3].margin == pytest.approx(0)
    assert router.route([]) == []


def test_embedding_router_finds_the_subtopic_within_its_subject():
    def one_axis_each(texts):
        axes = ["chess: openings", "chess: endgames with rooks", "bread: sourdough", "bread: kneading"]
        return np.array([[float(text in (axis, axis.split(": ")[1])) for axis in axes] for text in texts])

    router = EmbeddingRouter([CHESS, BREAD], 0.5, one_axis_each)
    routes = router.route(["endgames with rooks", "kneading", "sourdough"])
    assert [(one.subject, one.subtopic) for one in routes] == [
        ("chess", "endgames with rooks"),
        ("bread", "kneading"),
        ("bread", "sourdough"),
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda texts: embed(texts)[:-1], "shape"),
        (lambda texts: embed(texts)[:, :1], "of 2 numbers"),
        (lambda texts: embed(texts).ravel(), "shape"),
        (lambda texts: embed(texts) * np.nan, "not finite"),
    ],
)
def test_a_model_that_gives_something_else_is_refused(wrong, said):
    given = iter([embed])  # right for the sub-topics, wrong for the texts
    router = EmbeddingRouter([CHESS, BREAD], 0.5, lambda texts: next(given, wrong)(texts))
    with pytest.raises(UserError, match=said):
        router.route(["a rook", "dough", "bread"])


def test_real_mmlu_rows_reach_their_subject_far_above_chance(shared_data):
    subjects = load_subjects(None)
    groups = {subject.name: subject.group for subject in subjects}
    rows = [json.loads(row) for row in (shared_data / "mmlu_test_sample.jsonl").read_text("utf-8").splitlines()]
    routes = LexicalRouter(subjects, 0.0).route(["\n".join([row["question"], *row["choices"]]) for row in rows])
    right = [route.subject == row["subject"] for route, row in zip(routes, rows, strict=True)]
    near = [groups.get(route.subject) == groups[row["subject"]] for route, row in zip(routes, rows, strict=True)]
    assert sum(right) / len(rows) > 0.45 and sum(near) / len(rows) > 0.68  # chance: 2% and 32%
