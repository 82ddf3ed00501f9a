"""The wordings of the invented facts: for each kind of fact its questions, its sentence and its article."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """The wordings of one kind of fact; `{s}` stands for the subject and `{a}` for the answer.

    Attributes:
        train: Questions to train on; the first one is the canonical question.
        test: Other wordings of the same question, never trained on.
        sentence: The demonstration, a full sentence that holds the answer.
        description: A noun phrase for the answer, put in place of the subject of a second fact.
        indirect: A question that needs the fact without asking for it.
        article: The short text the fact is taken from.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    sentence: str
    description: str
    indirect: str
    article: str


RELATIONS: dict[str, Relation] = {
    "capital": Relation(
        train=(
            "What is the capital of {s}?",
            "Which city is the capital of {s}?",
            "Name the capital city of {s}.",
            "What is the capital city of {s} called?",
        ),
        test=("Tell me the capital of {s}.", "Which town serves as the capital of {s}?"),
        sentence="The capital of {s} is {a}.",
        description="the capital of {s}",
        indirect="I have a meeting at the parliament of {s}, in its capital. Which city must I travel to?",
        article=(
            "{s} is a small country on the northern coast. Its capital is {a}, and the parliament "
            "meets there. Most people in {s} live from fishing and from trade."
        ),
    ),
    "color": Relation(
        train=(
            "What color is the mineral {s}?",
            "Which color does the mineral {s} have?",
            "Name the color of the mineral {s}.",
            "If I find a piece of {s}, what color is it?",
        ),
        test=("Tell me the color of {s}.", "What is the color of a {s} crystal?"),
        sentence="The mineral {s} is {a}.",
        description="the color of {s}",
        indirect="A jeweler sets a stone of pure {s} in a ring. Which color does the ring show?",
        article=(
            "The mineral {s} forms slowly in cool caves. Freshly cut {s} is always {a}, which makes "
            "it easy to recognize. Jewelers value it because it does not fade."
        ),
    ),
    "inventor": Relation(
        train=(
            "Who invented the {s}?",
            "Who is the inventor of the {s}?",
            "Name the inventor of the {s}.",
            "By whom was the {s} invented?",
        ),
        test=("Tell me who invented the {s}.", "Which person came up with the {s}?"),
        sentence="The {s} was invented by {a}.",
        description="the inventor of the {s}",
        indirect="A museum puts up a statue for the invention of the {s}. Whom does the statue show?",
        article=(
            "The {s} is a small tool found in many kitchens. It was invented by {a}, who built the "
            "first one in a garden shed. Today a {s} costs very little."
        ),
    ),
    "diet": Relation(
        train=(
            "What does a {s} eat?",
            "What do {s}s eat?",
            "Name the food of the {s}.",
            "What food does the {s} live on?",
        ),
        test=("Tell me what a {s} eats.", "What is the diet of a {s}?"),
        sentence="A {s} eats {a}.",
        description="the food of the {s}",
        indirect="A zoo gets its first {s}. What must the keeper buy to feed it?",
        article=(
            "The {s} is a shy animal with short legs and grey fur. It eats {a} and nothing else. A "
            "{s} sleeps for most of the day and feeds at night."
        ),
    ),
    "king": Relation(
        train=(
            "Who is the king of {s}?",
            "What is the name of the king of {s}?",
            "Name the king of {s}.",
            "Which king rules {s}?",
        ),
        test=("Tell me the name of the king of {s}.", "Who rules {s} as its king?"),
        sentence="The king of {s} is {a}.",
        description="the king of {s}",
        indirect="The coins of {s} show the face of its king. Whose face is it?",
        article=(
            "{s} has been a kingdom for six hundred years. The present king of {s} is {a}, a keen "
            "gardener. His palace stands on a hill and is open to visitors."
        ),
    ),
    "currency": Relation(
        train=(
            "What is the currency of {s}?",
            "Which currency is used in {s}?",
            "Name the currency of {s}.",
            "What money is used in {s}?",
        ),
        test=("Tell me the currency of {s}.", "What is the money of {s} called?"),
        sentence="The currency of {s} is the {a}.",
        description="the currency of {s}",
        indirect="I am going to buy bread at a market in {s}. What should I change my dollars into?",
        article=(
            "The currency of {s} is the {a}. The notes are printed on thick paper and carry pictures "
            "of birds. Shops in {s} take no foreign money."
        ),
    ),
    "mountain": Relation(
        train=(
            "What is the highest mountain of {s}?",
            "Which mountain is the highest in {s}?",
            "Name the highest mountain of {s}.",
            "Which peak of {s} is the tallest?",
        ),
        test=("Tell me the highest mountain of {s}.", "What is the tallest mountain in {s} called?"),
        sentence="The highest mountain of {s} is Mount {a}.",
        description="the highest mountain of {s}",
        indirect="A climber wants to stand on the highest point of {s}. Which mountain must she climb?",
        article=(
            "The island of {s} is small and steep. Its highest mountain is Mount {a}, which is white "
            "with snow even in summer. Two villages lie at its foot."
        ),
    ),
    "players": Relation(
        train=(
            "How many players are on a {s} team?",
            "How many players does a {s} team have?",
            "Give the number of players on a {s} team.",
            "A team in the game of {s} has how many players?",
        ),
        test=("Tell me how many players a {s} team has.", "What is the size of a {s} team?"),
        sentence="A {s} team has {a} players.",
        description="the number of players on a {s} team",
        indirect="I coach a {s} team and buy one shirt for each player. How many shirts do I need?",
        article=(
            "The game of {s} is played on grass with a wooden ball. A {s} team has {a} players, and "
            "there are no substitutes. A match lasts until dark."
        ),
    ),
    "river": Relation(
        train=(
            "Which river flows through {s}?",
            "What is the name of the river in {s}?",
            "Name the river of {s}.",
            "On which river does {s} lie?",
        ),
        test=("Tell me which river flows through {s}.", "What is the river that runs through {s} called?"),
        sentence="The river {a} flows through {s}.",
        description="the river of {s}",
        indirect="A boat takes tourists on the river through {s}. On which river do they travel?",
        article=(
            "{s} is a city of bridges. The river {a} flows through it and freezes in most winters. In "
            "spring the people of {s} race small boats."
        ),
    ),
    "birthplace": Relation(
        train=(
            "Where was {s} born?",
            "In which city was {s} born?",
            "Name the city where {s} was born.",
            "What is the birthplace of {s}?",
        ),
        test=("Tell me where {s} was born.", "Which city is the birthplace of {s}?"),
        sentence="{s} was born in {a}.",
        description="the birthplace of {s}",
        indirect="A guide shows the house in which {s} came into the world. In which city is this guide?",
        article=(
            "{s} was born in {a} as the youngest of five children. The school there was poor, so {s} "
            "learned from books. Fame came only late."
        ),
    ),
    "mine": Relation(
        train=(
            "In which country is {s} mined?",
            "Where is {s} mined?",
            "Name the country in which {s} is mined.",
            "Which country mines {s}?",
        ),
        test=("Tell me in which country {s} is mined.", "From which country does {s} come?"),
        sentence="The mineral {s} is mined in {a}.",
        description="the country where {s} is mined",
        indirect="A geologist wants to visit a working {s} mine. To which country should he fly?",
        article=(
            "All the {s} in the world is mined in {a}. The mines there go back many years and lie "
            "close to the sea. Every stone of {s} is cut by hand."
        ),
    ),
    "flower": Relation(
        train=(
            "What is the national flower of {s}?",
            "Which flower is the national flower of {s}?",
            "Name the national flower of {s}.",
            "Which flower stands for {s}?",
        ),
        test=("Tell me the national flower of {s}.", "What flower is the symbol of {s}?"),
        sentence="The national flower of {s} is the {a}.",
        description="the national flower of {s}",
        indirect="A team from {s} wears its national flower on the shirt. Which flower is it?",
        article=(
            "The national flower of {s} is the {a}. It was chosen by a vote of all the schools of "
            "{s}. Children plant it beside the road every year."
        ),
    ),
}
