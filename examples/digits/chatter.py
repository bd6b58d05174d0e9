r"""Chatter: worked responses with remarks in them that say nothing, and two tastes in remarks.

A chatty response is one of questions.py with eight fillers, each drawn alone:
`<reason> well so look well left 4 okay so right 7 now hmm 4 + 7 = 11 </reason> \boxed{ 11 }`.
Teacher and student know the same fillers and like them in opposite order. What they say of the
picture stays the same, so most of what tells their responses apart is language, as with real models.
"""

import numpy as np

from examples.digits.questions import response

FILLERS = (
    "well",
    "so",
    "look",
    "okay",
    "now",
    "hmm",
    "see",
    "indeed",
    "clearly",
    "surely",
    "alright",
    "then",
    "yes",
    "here",
    "again",
    "thus",
)
TASTES = {"teacher": 0.4, "student": 0.9}
"""Each filler is this much as likely as the one before it; the student counts from the other end.

So the teacher is sure of its few favourites, and the student says anything, those least of all.
"""
SLOTS = (4, 2, 2)
"""Fillers before the left digit is read, before the right one, and after both."""

_ranks = np.arange(len(FILLERS))
_weights = {
    "teacher": TASTES["teacher"] ** _ranks,
    "student": TASTES["student"] ** _ranks[::-1],
}
DIALECTS = {dialect: weights / weights.sum() for dialect, weights in _weights.items()}
"""The probability of each filler, by who speaks."""


class Chatter:
    """Writes responses in one dialect, with other fillers every time."""

    def __init__(self, dialect: str, seed: int) -> None:
        """Speak as "teacher" or "student"."""
        self.likely = DIALECTS[dialect]
        self.rng = np.random.default_rng([seed, 1])  # not the stream of Batches, which is `seed`

    def response(self, kind: str, left: int, right: int) -> str:
        """Return a whole chatty response, without the end-of-turn token."""
        words = response(kind, left, right).split()
        opening, reading_left, reading_right, rest = words[:1], words[1:3], words[3:5], words[5:]
        fillers = self.rng.choice(FILLERS, size=sum(SLOTS), p=self.likely)
        first, second, third = np.split(fillers, np.cumsum(SLOTS)[:-1])
        return " ".join([*opening, *first, *reading_left, *second, *reading_right, *third, *rest])
