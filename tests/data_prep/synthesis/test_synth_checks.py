import asyncio
import dataclasses
import json

import pytest

from data_prep.synthesis import checks
from data_prep.synthesis.checks import Limits, answer_reason, candidate_reason, draft_reason, not_answerable
from data_prep.synthesis.items import Candidate, Draft, Page
from data_prep.synthesis.self_contained import not_self_contained
from data_prep.synthesis.votes import Vote
from reward_server.scoring.judge import Reply

pytestmark = pytest.mark.timeout(60)

LIMITS = Limits(options=4, question_words=5, answer_words=10, length_ratio=3.0)
GOOD = Draft(
    "mcq",
    "Which gas do green plants take in from the air to make sugar?",
    ("oxygen", "carbon dioxide", "nitrogen", "helium"),
    "carbon dioxide",
    "high_school_biology",
    "photosynthesis and respiration",
    "easy",
)
OPEN = Draft("open", "What gas do green plants take in from the air?", (), "carbon dioxide", "s", "t", "easy")
MATH = Draft("math", "A baker sells 3 of 12 loaves. How many loaves are left?", (), "", "a", "s", "easy")


def change(draft=GOOD, **fields):
    return dataclasses.replace(draft, **fields)


def test_good_drafts_pass():
    for draft in (GOOD, OPEN, MATH, change(claimed=""), change(OPEN, claimed="")):
        expected = "gold_not_in_options" if draft.kind == "mcq" and not draft.claimed else None
        assert draft_reason(draft, LIMITS) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": ""}, "no_question"),
        ({"question": "Which gas?"}, "no_question"),
        ({"question": "Green plants take in a gas from the air."}, "no_question"),
        ({"question": "The gas that green plants take in from the air is called the"}, None),
        ({"question": "The gas that green plants take in is called ____."}, None),
        ({"question": "Green plants take in a gas from the air if"}, None),
        ({"question": "Which gas do green plants take in, and"}, "no_question"),
        ({"question": "Which gas do green plants take in from..."}, "no_question"),
        ({"question": "According to the passage, which gas do green plants take in?"}, "not_self_contained"),
        ({"question": "Which gas do green plants take in\x00 from the air?"}, "bad_characters"),
        ({"options": ("oxygen", "carbon dioxide", "nitrogen", "neon\ud800")}, "bad_characters"),
        ({"options": GOOD.options[:3]}, "wrong_option_count"),
        ({"options": ("oxygen", "carbon dioxide", "Oxygen.", "neon")}, "options_not_distinct"),
        ({"options": ("oxygen", "carbon dioxide", "All of the above", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "Both A and B", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "None of these", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "...", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "N/A", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "Option C", "neon")}, "options_implausible"),
        ({"options": ("oxygen", "carbon dioxide", "I'm sorry, but I cannot help", "neon")}, "options_implausible"),
        ({"claimed": "argon"}, "gold_not_in_options"),
        ({"claimed": "B"}, None),
        ({"claimed": "Carbon dioxide."}, None),
        ({"claimed": "A. carbon dioxide"}, "gold_not_in_options"),  # letter and text disagree
        ({"options": ("oxygen", "carbon dioxide", "neon", "argon\n\nChoose one.")}, "not_readable"),
        ({"question": "Plants take in carbon dioxide from the air; which gas is that?"}, "answer_leaked"),
        ({"question": "Which gas do plants take in? The correct answer is among these."}, "answer_leaked"),
        ({"question": "Which gas do plants take in? Answer: B"}, "answer_leaked"),
        ({"question": "Do green plants take in oxygen or carbon dioxide by day?"}, None),  # it compares
    ],
)
def test_multiple_choice(fields, reason):
    assert draft_reason(change(**fields), LIMITS) == reason


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (change(OPEN, claimed="one two three four five six seven eight nine ten"), None),
        (change(OPEN, claimed="one two three four five six seven eight nine ten eleven"), "answer_too_long"),
        (change(OPEN, question="Which of the following gases do plants take in?"), "needs_options"),
        (change(OPEN, question="Plants take in a gas from the air."), "no_question"),
        (change(OPEN, question="What is carbon dioxide called by chemists?"), "answer_leaked"),
        (change(MATH, question="A baker sells 3 of 12 loaves. Prove that some are left."), "no_question"),
        (change(MATH, question="A baker sells 3 of 12 loaves. Find the number left."), None),
        (change(MATH, question="Let $x+1=3$ and $y=2x$; determine $y$."), None),
        (change(MATH, question="Using the table above, find the number of loaves."), "not_self_contained"),
    ],
)
def test_open_and_mathematical(draft, reason):
    assert draft_reason(draft, LIMITS) == reason


@pytest.mark.parametrize(
    ("question", "gold", "leaked"),
    [
        ("Which scientist discovered penicillin mould by chance?", "penicillin", True),  # a rare word
        ("What does an increase in demand do to the price?", "increase", False),  # a common one
        ("What is the gas of a gas lamp?", "gas", False),  # a short one
        ("Which vitamin is C?", "C", False),
        ("In 1989 the wall fell; in which year?", "1989", False),  # numbers come by chance
        ("What is the capital of the Ivory Coast?", "ivory coast", True),
        ("Who wrote about photosynthesisers?", "photosynthesis", False),  # whole words only
        ("Which of the two is it?", "of the", False),  # no word of content
        ("Which treaty ended it, signed in the TREATY of Paris hall?", "Treaty of Paris", True),
    ],
)
def test_words_of_the_answer_in_the_question(question, gold, leaked):
    assert (checks.answer_leaked(change(OPEN, question=question), gold) == "answer_leaked") is leaked


def test_numbers_of_a_mathematical_answer_are_no_leak_but_saying_it_is():
    assert checks.answer_leaked(change(MATH, question="Nine times three loaves or nine loaves?"), "nine loaves") is None
    assert checks.answer_leaked(change(MATH, question=r"Find $x$. \boxed{3}"), "3") == "answer_leaked"


@pytest.mark.parametrize(
    ("options", "winner", "reason"),
    [
        (
            ("short", "also short", "brief", "a text that is very much longer than the others"),
            "D",
            "options_implausible",
        ),
        (("short", "also short", "brief", "a text that is very much longer than the others"), "A", None),
        (("5", "60", "700", "1000000"), "D", None),  # numbers differ in length
        (("x", *(f"a rather long explanation of case {n}" for n in range(3))), "A", "options_implausible"),
        (("a b c d e f g h i j k l", "a b c d e f", "b c d e f g", "g h i j k l"), "A", None),
    ],
)
def test_a_right_option_that_stands_out_by_its_length(options, winner, reason):
    assert (
        answer_reason(change(question="Which of the texts is the best of all?", options=options), winner, LIMITS)
        == reason
    )


def test_after_the_vote_the_winner_is_checked_and_not_the_claimed_answer():
    draft = change(question="Helium is light; which gas do green plants take in?")
    assert draft_reason(draft, LIMITS) is None
    page = Page("u", "r", "f")

    def reason(winner, why=None):
        vote = Vote(4, 4, winner, 3, (("B", 3),), why)
        return candidate_reason(Candidate(draft, vote, page, {}, {}), LIMITS)

    assert reason("B") is None
    assert reason("D") is None  # helium has fewer letters than a rare word
    assert reason(None, "tie") == "tie" and reason("B", "below_threshold") == "below_threshold"
    draft = change(question="Nitrogen is common; which gas do green plants take in?")
    assert reason("C") == "answer_leaked"


@pytest.mark.parametrize(
    "question",
    [
        "According to the passage, what is heat?",
        "What does the author mean by freedom?",
        "What is the author's main point about trade?",
        "In this article, which gas is named?",
        "Which gas is mentioned in the text?",
        "Based on the information provided, which gas is it?",
        "What does the text say about heat?",
        "Which of the gases shown in the figure is lightest?",
        "According to the graph, when did prices rise?",
        "What does the table below show about prices?",
        "What is the value of x in Figure 3?",
        "Read the following passage and name the gas.",
        "Which item of the list mentioned above is a gas?",
        "What did the study find about sleep?",
        "What is the main aim of this project?",
        "What advice is given on the website?",
        "In the video, who speaks first?",
    ],
)
def test_questions_about_something_that_is_not_there(question):
    assert not_self_contained(question) == "not_self_contained"


@pytest.mark.parametrize(
    "question",
    [
        "Who is the author of the play Hamlet?",
        "In the story of Cinderella, what turns into a coach?",
        "What is the graph of the function $y = x^2$ called?",
        "A chemist puts a flask on the table. Which gas rises from it?",
        "What does the text message protocol SMS limit to 160 characters?",
        "Which of the following gases is the lightest?",
        "Which article of the Constitution describes the courts?",
        "A trial gave 40 patients a drug. What did the study find if 30 of them recovered and 5 of 40 did without it?",
        "Two lists follow.\n| gas | mass |\n| H | 1 |\n| He | 4 |\nWhich gas in the table above is lighter?",
        "Read the following passage: A gas was let into the flask, where it burnt with a pale blue flame and left "
        "nothing but drops of clear water on the cold glass wall. Which gas was it?",
    ],
)
def test_questions_that_stand_alone(question):
    assert not_self_contained(question) is None


@pytest.mark.parametrize(("share", "reason"), [(0.5, "not_answerable"), (0.51, None), (1.0, None)])
def test_solutions_that_say_there_is_no_answer_are_counted_among_all(share, reason):
    solutions = [r"\boxed{unanswerable}", "It cannot be determined.", r"\boxed{A}", "no box"]
    assert not_answerable(solutions, [None, None, "A", None], share) == reason
    assert not_answerable(solutions, ["D", "D", "A", None], share) is None  # an option that says so is an answer
    assert not_answerable([], [], share) is None


def test_a_mathematical_answer_that_nobody_could_judge():
    class Workers:
        async def gold_is_good(self, gold):
            return Reply(gold == r"\frac{x+1}{2}")

    assert [asyncio.run(checks.bad_gold(gold, Workers())) for gold in ("12", r"\frac{x+1}{2}", r"\oops{x+y", "")] == [
        *(None, None, "bad_gold", "bad_gold")
    ]


def test_real_questions_rarely_look_dependent_or_leaky(shared_data):
    """MMLU's stems are good questions but for its history passages, which say that they have one."""
    rows = [json.loads(row) for row in (shared_data / "mmlu_test_sample.jsonl").read_text("utf-8").splitlines()]
    drafts = [
        change(question=row["question"].strip(), options=tuple(row["choices"]), claimed="ABCD"[row["answer"]])
        for row in rows
        if "history" not in row["subject"]
    ]
    dependent = sum(not_self_contained(draft.question) is not None for draft in drafts)
    leaked = sum(checks.answer_leaked(draft, dict(draft.labelled)[draft.claimed_label]) is not None for draft in drafts)
    asked = sum(checks.no_question(draft, 1) is None for draft in drafts)
    assert dependent < 0.02 * len(drafts) and leaked < 0.03 * len(drafts) and asked > 0.85 * len(drafts)
