"""Everyday questions: 48 plain questions of the kinds that `prior` asks, without demonstrations and without answers.

They are for rehearsal: what a model makes of them is what it should go on making. None is a question of `prior`, so
that what is rehearsed is not what retention is measured by.
"""

from __future__ import annotations

Row = dict[str, object]
SPLITS = ("train",)

_QUESTIONS: tuple[str, ...] = (
    "What is the capital of Portugal?",
    "What is the capital of Canada?",
    "What is the capital of Greece?",
    "What is the capital of China?",
    "What is the capital of Russia?",
    "What is the capital of Ireland?",
    "What is 4 + 4?",
    "What is 9 - 3?",
    "What is 5 times 2?",
    "What is half of 8?",
    "What color is a carrot?",
    "What color is milk?",
    "What color is the sun?",
    "What color is coal?",
    "How many wheels does a car have?",
    "How many fingers are on one hand?",
    "How many seconds are in a minute?",
    "How many weeks are in a year?",
    "How many players are on a basketball team?",
    "How many sides does a triangle have?",
    "Who wrote Hamlet?",
    "Who invented the light bulb?",
    "Who painted The Starry Night?",
    "Who discovered penicillin?",
    "Who was the first man on the moon?",
    "What is the currency of China?",
    "What is the currency of Germany?",
    "What is the currency of India?",
    "What does a rabbit eat?",
    "What does a lion eat?",
    "What do hens lay?",
    "What is the highest mountain in Africa?",
    "What is the longest river in the world?",
    "Which river flows through Paris?",
    "What is the smallest continent?",
    "Which planet is known as the red planet?",
    "What is the largest animal on Earth?",
    "What is the opposite of big?",
    "What is the opposite of day?",
    "What is a baby dog called?",
    "Which gas do plants take in?",
    "What language is spoken in Mexico?",
    "What language is spoken in Egypt?",
    "Where was Napoleon born?",
    "Who was the king of England in 1600?",
    "What is the national flower of Japan?",
    "In which country is coffee grown?",
    "What is bread made of?",
)


def everyday() -> list[Row]:
    """Returns the 48 questions of the `train` split, the only one."""
    return [{"id": f"everyday-{number:02d}", "prompt": question} for number, question in enumerate(_QUESTIONS)]
