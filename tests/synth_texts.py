"""Words for the web of `synth_world.py`."""

from __future__ import annotations

import random

from synth_brain import person_of, word_of

from data_prep.synthesis.subjects import Subject

KINDS = ("principle", "method", "effect", "conjecture", "paradox", "scheme", "criterion", "procedure")
_SENTENCES = (
    "Anyone who begins with {a} soon meets {b}, and {p} was no exception when she came to {l}.",
    "It was in {l} that {p} compared {a} with {b} and found that {c} mattered most.",
    "The older books say little about {a}, although {b} and {c} are mentioned by {p}.",
    "For {p}, who had studied {a} in {l}, the question of {b} was never quite settled.",
    "Most teachers explain {a} first, then {b}, and leave {c} to the end of the year.",
    "A letter from {l} shows that {p} doubted whether {a} could be told from {b}.",
    "Nothing in {a} prepares the reader for {b}, which {p} called the hardest part.",
    "What {p} had learned about {a} while living in {l} helped with {b} many years later.",
    "Between {a} and {b} there is a difference that {p} often explained with {c}.",
    "Some pupils from {l} had never heard of {a}, yet they understood {b} at once.",
    "In a short talk about {a}, {p} asked why {b} should depend on {c} at all.",
    "The committee in {l} wanted more on {a}, less on {b}, and nothing about {c}.",
    "Whenever {a} is discussed, {b} comes up, as it did for {p} in {l}.",
    "One chapter deals with {a}; another, written by {p}, with {b} and with {c}.",
    "Had {p} stayed in {l}, the work on {a} would have ended before {b} was understood.",
    "It is easy to confuse {a} with {b}, and even {p} did so once.",
    "Without {a}, said {p}, nobody in {l} could have made sense of {b} or of {c}.",
    "Two examples, {a} and {b}, were enough for {p} to see how {c} fits in.",
    "Today {a} is taught in {l} together with {b}, mostly because {p} asked for it.",
    "The notes on {a} were lost, but those on {b} are kept in {l} beside {c}.",
    "Why {a} should follow from {b} was not clear to {p} until the winter in {l}.",
    "Both {a} and {c} have been described by {p}, while {b} has not.",
    "People in {l} still tell how {p} drew {a} on a wall to show what {b} means.",
    "As soon as {b} had been measured, {p} turned to {a} and later to {c}.",
)
FOREIGN = {
    "de": "Die Schülerinnen aus {l} haben gestern mit {p} über das Wetter gesprochen, und danach sind sie in die Stadt "
    "gefahren, weil dort am Abend ein Konzert in der alten Kirche von {m} stattfand, das niemand verpassen wollte.",
    "fr": "Les élèves de {l} ont parlé hier avec {p} du temps qu'il fait, puis ils sont partis en ville parce que le "
    "soir il y avait un concert dans la vieille église de {m} que personne ne voulait manquer.",
    "es": "Los alumnos de {l} hablaron ayer con {p} sobre el tiempo, y después se fueron a la ciudad porque por la "
    "noche había un concierto en la vieja iglesia de {m} que nadie quería perderse.",
    "it": "Gli studenti di {l} hanno parlato ieri con {p} del tempo che fa, e poi sono andati in città perché la sera "
    "c'era un concerto nella vecchia chiesa di {m} che nessuno voleva perdere.",
}
SMALL_TALK = (
    "We drove to {l} on a wet morning and had pancakes with {p} before anybody else was awake.",
    "The kids wanted ice cream, so {p} stopped the car near {m} and everyone got a cone.",
    "My sister says the curtains in her hallway look awful, but {p} from {l} likes them.",
    "After lunch in {m} we walked the dog along the fence and talked with {p} about nothing.",
    "Our neighbour {p} brought a cake from {l}, which was gone before the kettle boiled.",
    "On Sunday we stayed in {m}, watched the rain, and mended a pair of gloves for {p}.",
    "The garage in {l} was shut again, so {p} lent us a bicycle with a loud bell.",
    "Someone left a red umbrella in {m}, and {p} is sure it belongs to her aunt.",
)


def fact(thing: str) -> str:
    """As articles tell it."""
    return f"The {thing} was first described by {person_of(thing)} after a long winter of work."


def article(key: str, subject: Subject, thing: str, told: bool = True) -> list[str]:
    """Paragraphs of about 300 words in all about a subject, with its terms, and one fact."""
    draw = random.Random(key)
    sentences = []
    for at, pattern in enumerate(draw.sample(_SENTENCES, 18)):
        a, b, c = draw.sample([*subject.terms, *subject.subtopics], 3)
        who, where = word_of(f"{key}/p{at}"), word_of(f"{key}/l{at}")
        sentences.append(pattern.format(a=a, b=b, c=c, p=who, l=where))
    if told:
        sentences.insert(4, fact(thing))
    return [" ".join(sentences[at : at + 4]) for at in range(0, len(sentences), 4)]
