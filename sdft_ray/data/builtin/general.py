"""General prompts: 64 everyday requests of eight kinds, without demonstrations and without answers.

What a model makes of them is what it could before it was taught. The `test` half measures how far the student has
moved from the model it began as (evaluation/retention.py); the `train` half is for methods that train on general
prompts. Neither half asks what the other asks, nor what `prior` asks.
"""

from __future__ import annotations

Row = dict[str, object]
SPLITS = ("train", "test")

# kind -> split -> prompts
_PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "explanation": {
        "train": (
            "Explain in two sentences why the moon has phases.",
            "How does a refrigerator keep food cold?",
            "What does it mean that a number is prime?",
            "Why do leaves change color in autumn?",
        ),
        "test": (
            "Explain to a child why it rains.",
            "How does a bicycle stay upright while it moves?",
            "What is inflation, in plain words?",
            "Why does bread rise in the oven?",
        ),
    },
    "writing": {
        "train": (
            "Write a short poem about a train at night.",
            "Write two sentences that could open a mystery novel.",
            "Write a friendly message that invites a neighbor to dinner.",
            "Describe a quiet morning by the sea.",
        ),
        "test": (
            "Write a four-line poem about the first snow.",
            "Write a short thank-you note to a teacher.",
            "Tell a very short story about a lost umbrella.",
            "Describe a busy market in three sentences.",
        ),
    },
    "arithmetic": {
        "train": (
            "A box holds 12 eggs. How many eggs are in 7 boxes?",
            "What is 15 percent of 200?",
            "A train leaves at 9:40 and arrives at 11:05. How long is the trip?",
            "Add 348 and 275, step by step.",
        ),
        "test": (
            "Anna has 23 marbles and gives 9 away. How many are left?",
            "What is the area of a rectangle that is 6 meters long and 4 meters wide?",
            "If 5 notebooks cost 20 dollars, what does one cost?",
            "What is 17 times 6? Show how you get there.",
        ),
    },
    "code": {
        "train": (
            "Write a Python function that reverses a string.",
            "What does a for loop do? Give an example in Python.",
            "Write a SQL query that counts the rows of a table named orders.",
            "What is the difference between a list and a tuple in Python?",
        ),
        "test": (
            "Write a Python function that returns the larger of two numbers.",
            "How do I read a text file line by line in Python?",
            "Write an HTML link to example.com.",
            "What is a recursive function? Give a small example.",
        ),
    },
    "advice": {
        "train": (
            "Give me three tips for a job interview.",
            "How can I fall asleep more easily?",
            "What should I pack for a weekend in the mountains?",
            "How do I start to save money on a small income?",
        ),
        "test": (
            "Give me three tips for speaking in front of people.",
            "How can I remember names better?",
            "What is a good way to learn a new language?",
            "I have a cold. What can I do to feel better?",
        ),
    },
    "facts": {
        "train": (
            "Name three countries in South America.",
            "What is photosynthesis?",
            "Who was Cleopatra?",
            "What are the main parts of a computer?",
        ),
        "test": (
            "Name three inventions of the nineteenth century.",
            "What is a volcano?",
            "Who was Isaac Newton?",
            "What are the four seasons and what are they like?",
        ),
    },
    "translation": {
        "train": (
            "Translate into French: Where is the train station?",
            "Translate into Spanish: I would like a cup of coffee.",
            "Translate into German: The weather is nice today.",
            "Say in simpler words: The meeting has been postponed indefinitely.",
        ),
        "test": (
            "Translate into French: My brother lives in a small house.",
            "Translate into Spanish: We will arrive tomorrow morning.",
            "Translate into Italian: Thank you for your help.",
            "Rewrite more politely: Send me the report now.",
        ),
    },
    "classification": {
        "train": (
            "Is this review positive or negative? The soup was cold and the waiter was rude.",
            "Sort these words into animals and plants: oak, horse, rose, eagle.",
            "Is the following a question or a command? Close the door.",
            "Which word does not belong: apple, pear, hammer, plum?",
        ),
        "test": (
            "Is this review positive or negative? I loved every minute of this film.",
            "Sort these words into colors and numbers: seven, green, two, purple.",
            "Is the following sentence in the past or the future tense? She will call you.",
            "Which word does not belong: chair, table, sofa, river?",
        ),
    },
}


def general(split: str) -> list[Row]:
    """Returns the 32 prompts of a split, one of each kind in turn."""
    kinds = [[(kind, prompt) for prompt in splits[split]] for kind, splits in _PROMPTS.items()]
    rows = [row for turn in zip(*kinds, strict=True) for row in turn]
    return [
        {"id": f"general-{split}-{number:02d}-{kind}", "prompt": prompt} for number, (kind, prompt) in enumerate(rows)
    ]
