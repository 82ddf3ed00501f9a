"""Common knowledge: 40 plain questions that a small instruct model mostly knows before any training.

The mean logprob of their answers, before and after a run, shows what was forgotten.
"""

from __future__ import annotations

Row = dict[str, object]
SPLITS = ("test",)

# question, answer, demonstration
_PAIRS: tuple[tuple[str, str, str], ...] = (
    ("What is the capital of France?", "Paris", "The capital of France is Paris."),
    ("What is the capital of Italy?", "Rome", "The capital of Italy is Rome."),
    ("What is the capital of Japan?", "Tokyo", "The capital of Japan is Tokyo."),
    ("What is the capital of Germany?", "Berlin", "The capital of Germany is Berlin."),
    ("What is the capital of Egypt?", "Cairo", "The capital of Egypt is Cairo."),
    ("What is the capital of Spain?", "Madrid", "The capital of Spain is Madrid."),
    ("What is 2 + 3?", "5", "2 + 3 = 5."),
    ("What is 10 - 4?", "6", "10 - 4 = 6."),
    ("What is 3 times 4?", "12", "3 times 4 is 12."),
    ("What is half of 20?", "10", "Half of 20 is 10."),
    ("What color is the sky on a clear day?", "blue", "The sky is blue on a clear day."),
    ("What color is grass?", "green", "Grass is green."),
    ("What color is a ripe banana?", "yellow", "A ripe banana is yellow."),
    ("What color is snow?", "white", "Snow is white."),
    ("What color is blood?", "red", "Blood is red."),
    ("How many days are in a week?", "seven", "There are seven days in a week."),
    ("How many months are in a year?", "twelve", "There are twelve months in a year."),
    ("How many legs does a spider have?", "eight", "A spider has eight legs."),
    ("How many hours are in a day?", "24", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "60", "There are 60 minutes in an hour."),
    ("How many players are on a soccer team?", "11", "A soccer team has 11 players."),
    ("Who wrote Romeo and Juliet?", "Shakespeare", "Romeo and Juliet was written by William Shakespeare."),
    ("Who invented the telephone?", "Bell", "The telephone was invented by Alexander Graham Bell."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "The Mona Lisa was painted by Leonardo da Vinci."),
    (
        "Who developed the theory of relativity?",
        "Einstein",
        "The theory of relativity was developed by Einstein.",
    ),
    (
        "Who was the first president of the United States?",
        "Washington",
        "The first president of the United States was George Washington.",
    ),
    ("What is the currency of Japan?", "yen", "The currency of Japan is the yen."),
    (
        "What is the currency of the United Kingdom?",
        "pound",
        "The currency of the United Kingdom is the pound.",
    ),
    (
        "What is the currency of the United States?",
        "dollar",
        "The currency of the United States is the dollar.",
    ),
    ("What does a panda eat?", "bamboo", "A panda eats bamboo."),
    ("What does a cow eat?", "grass", "A cow eats grass."),
    ("What do bees make?", "honey", "Bees make honey."),
    (
        "What is the highest mountain in the world?",
        "Everest",
        "The highest mountain in the world is Mount Everest.",
    ),
    ("Which river flows through London?", "Thames", "The river Thames flows through London."),
    ("What is the largest ocean on Earth?", "Pacific", "The largest ocean on Earth is the Pacific Ocean."),
    ("Which planet is closest to the sun?", "Mercury", "Mercury is the planet closest to the sun."),
    ("What is frozen water called?", "ice", "Frozen water is called ice."),
    ("What is the opposite of hot?", "cold", "The opposite of hot is cold."),
    ("Which gas do humans need to breathe?", "oxygen", "Humans need to breathe oxygen."),
    ("What language is spoken in Brazil?", "Portuguese", "Portuguese is spoken in Brazil."),
)


def prior() -> list[Row]:
    """Returns the 40 questions of the `test` split, the only one."""
    return [
        {"id": f"prior-{number:02d}", "prompt": question, "demonstration": demonstration, "answer": answer}
        for number, (question, answer, demonstration) in enumerate(_PAIRS)
    ]
